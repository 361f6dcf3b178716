"""Promises that several kinds make in one form: each function returns a row for a kind's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from forgetkit.errors import UsageError
from forgetkit.testing import comparing
from forgetkit.testing.case import KitCase
from forgetkit.testing.promise import Failure, Row, hyphenated

_PARTS = {
    "parameters": "the parameter",
    "buffers": "the buffer",
    "gradients": "the gradient of",
    "modes": "the train or eval mode of the module",
    "hooks": "a hook of the module",
    "optimizer": "the optimizer's state of",
}
"""The parts of a snapshot, as a message names them."""


def runs(text: str, usual: str = "") -> Row:
    """The usual call returns; with ``usual``, the name of its input, a component must not refuse that."""

    def verify(case: KitCase) -> None:
        try:
            case.observe()
        except UsageError as error:
            if not usual:
                raise
            raise Failure(f"it refuses {usual}: {error}") from error

    return Row("runs", text, verify)


def of_usual(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The promises about the form of a result, checked on the usual record."""

    def on_usual(look: Callable[[Any], None]) -> Callable[[KitCase], None]:
        return lambda case: look(case.usual)

    return tuple(each._replace(verify=on_usual(each.verify)) for each in rows)


def copes(given: Callable[[], Any], text: str, name: str = "") -> Row:
    """On another input the result has no fault that the usual one does not have."""
    return Row(name or hyphenated(given), text, lambda case: case.require_as_sound(lambda: case.observe(given)))


def leaves(part: str, text: str, given: Any = None) -> Row:
    """A part of the network's snapshot is the same before and after the call."""

    def verify(case: KitCase) -> None:
        record = case.borrowed(given)
        comparing.require_same(
            getattr(record.before, part), getattr(record.after, part), f"after the call {_PARTS[part]}"
        )

    return Row(f"leaves-{part}", text, verify)


def declares(
    flag: str, verb: str, text: str, found: Callable[[Any], bool], *, purpose: str, default: bool = False
) -> Row:
    """A component does something if and only if its class says so by a flag, which has a purpose for the host."""

    def verify(case: KitCase) -> None:
        declared, does = bool(getattr(case.component, flag, default)), found(case)
        if declared and not does:
            raise Failure(
                f"{flag} is True and it never {verb}; say {flag} = False, or name in test_options options under which "
                "it does"
            )
        if does and not declared:
            raise Failure(f"it {verb}; say {flag} = True, so that {purpose}")

    return Row(flag.replace("_", "-"), text, verify)


def deterministic(text: str) -> Row:
    """One object, called twice, gives the same result."""

    def verify(case: KitCase) -> None:
        component = case.another()
        once, again = case.borrowed(component=component), case.observe(component=component)
        case.require_comparable(once, again)
        if found := case.difference(once, again):
            raise Failure(f"{found} differs in a second call; keep nothing between calls, draw from {case.generator}")

    return Row("deterministic", text, verify)


def own_randomness(text: str) -> Row:
    """The global random state neither changes the result nor is changed."""

    def verify(case: KitCase) -> None:
        case.require_repeatable()
        if found := case.variation():
            raise Failure(f"{found} varies with the global random state; draw from {case.generator}")
        case.require_random_state()

    return Row("own-randomness", text, verify)


LEAVES_SETTINGS = Row(
    "leaves-settings",
    "The call changes no process-wide setting of torch or NumPy (default dtype, grad mode, autocast …).",
    lambda case: case.require_settings(),
)
