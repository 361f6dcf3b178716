"""A promise, what became of it, and the two ways in which a check ends early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from forgetkit.errors import ComponentError

Status = Literal["kept", "broken", "expected", "not applicable"]


@dataclass(frozen=True)
class Promise:
    """One property of the components of a kind, under a name, in one sentence."""

    kind: str
    name: str
    text: str
    verify: Callable[[Any], None] = field(repr=False, compare=False)
    """Looks at a case of the kind; raises :class:`Failure` or :class:`NotApplicable`, or returns."""
    needs: str = field(default="runs", repr=False, compare=False)
    """The promise without which this one is not looked at; empty where there is none."""


@dataclass(frozen=True)
class Verdict:
    """What became of a promise, with the reason where it was not simply kept."""

    promise: Promise
    status: Status
    reason: str = ""


class BrokenPromise(ComponentError):  # noqa: N818 - the message begins with what it is
    """A component does not do what its contract says."""


class Failure(Exception):  # noqa: N818 - never leaves this room
    """The promise that is looked at is broken, for this reason."""


class NotApplicable(Exception):  # noqa: N818 - never leaves this room
    """The promise says nothing about this component, or another that is broken hides it."""


def promise(kind: str, *checks: Callable[[Any], None], needs: str = "runs") -> tuple[Promise, ...]:
    """The promises that ``checks`` look at: a function's name is the promise's, its docstring what it says."""
    return tuple(
        Promise(kind, check.__name__.replace("_", "-"), " ".join((check.__doc__ or "").split()), check, needs)
        for check in checks
    )
