"""A promise, the verdict on it, and the two exceptions that end a check early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from forgetkit.errors import ComponentError

Status = Literal["kept", "broken", "expected", "not applicable"]


@dataclass(frozen=True)
class Promise:
    """One property that every component of a kind must have.

    Attributes:
        kind: The kind of component, such as ``importance``.
        name: The name, unique within the kind, in words joined by hyphens.
        text: The property in one sentence.
        verify: The check. Called with the case of the kind, it returns if the promise is kept.
        needs: The promise that must be kept for this one to be checked; empty if there is none.

    Example:
        >>> from forgetkit.testing import promises
        >>> [promise.name for promise in promises("metrics")][:2]
        ['runs', 'number']
    """

    kind: str
    name: str
    text: str
    verify: Callable[[Any], None] = field(repr=False, compare=False)
    needs: str = field(default="runs", repr=False, compare=False)


@dataclass(frozen=True)
class Verdict:
    """The result of checking one promise.

    Attributes:
        promise: The promise that was checked.
        status: ``kept``, ``broken``, ``expected`` (broken, and among the expected failures) or ``not applicable``.
        reason: Why the promise is not kept, in one line; empty if it is kept.

    Example:
        >>> from forgetkit.testing import examine
        >>> examine("metrics", "cer")[0].status
        'kept'
    """

    promise: Promise
    status: Status
    reason: str = ""


class BrokenPromise(ComponentError):  # noqa: N818 - the message begins with what it is
    """Raised if a component breaks a promise of its kind.

    The message is one line: the component, the promise, the reason and the remedy.

    Example:
        >>> from forgetkit import testing
        >>> try:
        ...     testing.check_metric(object())
        ... except testing.BrokenPromise as error:
        ...     print(str(error)[:38])
        object breaks the promise 'runs' of me
    """


class Failure(Exception):  # noqa: N818 - private to the kit
    """The promise being checked is broken; the message is the reason."""


class NotApplicable(Exception):  # noqa: N818 - private to the kit
    """The promise being checked does not apply to this component, or another broken promise hides it."""


class Row(NamedTuple):
    """A promise in the table of its kind."""

    name: str
    text: str
    verify: Callable[[Any], None]
    needs: str = "runs"


def row(check: Callable[[Any], None], needs: str = "runs") -> Row:
    """Return the row of a check that is a function: its name is the promise's, its docstring the sentence."""
    return Row(hyphenated(check), " ".join((check.__doc__ or "").split()), check, needs)


def hyphenated(function: Callable[..., Any]) -> str:
    """Return a function's name with hyphens."""
    return function.__name__.replace("_", "-")
