"""The promises of observers."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from forgetkit.contracts import (
    Checkpointed,
    EpochEnded,
    Event,
    LoadProgress,
    MegaBatchEnded,
    MegaBatchRevealed,
    RunEnded,
    RunStarted,
    StepProgress,
    Unlearned,
)
from forgetkit.testing import rows
from forgetkit.testing.case import KitCase
from forgetkit.testing.metrics import result_of
from forgetkit.testing.promise import Failure, Row, row


def _config() -> dict[str, Any]:
    return {"dataset": "digits", "model": "mlp", "seed": 0}


def _started(done: int = 0) -> RunStarted:
    return RunStarted("a-run", "runs/a-run", "masked", _config(), 100, 2, 1, (90, 90), done=done)


def _events() -> tuple[Event, ...]:
    """Return the events of a short run, each kind at least once."""
    layers = {"head.weight": {"size": 40, "reset": 8}}
    report = {"scored": 40, "reset": 8, "threshold": 0.1, "seconds": 0.2, "layers": layers, "buffers": []}
    first = (
        MegaBatchRevealed(1, 100, 90, 10),
        StepProgress(1, 1, 1, 2),
        EpochEnded(1, 1, 1, 0.7, 0.5, 0.1, 90, 1.5, 0.4),
        Unlearned(1, report),
        Checkpointed(1, 1, "mega-batch-1.pt"),
        MegaBatchEnded(result_of(1, 20)),
    )
    second = (
        MegaBatchRevealed(2, 100, 90, 0),
        EpochEnded(2, 1, 1, 0.6, 0.6, 0.1, 90, 1.5),
        MegaBatchEnded(result_of(2, 13, validated=False)),
    )
    return (
        LoadProgress("loading digits", 1, 2),
        _started(),
        *(*first, *second),
        RunEnded({"schema": 1, "run": "a-run", "config": _config(), "mega_batches": [], "status": "completed"}),
    )


@dataclass(frozen=True)
class UnknownEvent(Event):
    """An event of a kind that no observer knows."""


@dataclass(frozen=True, eq=False)
class ObserverCase(KitCase):
    """An observer under examination."""

    def act(self) -> None:
        """Notify an observer of a run."""
        _notify(self.another(), _events())


def _notify(observer: Any, events: Iterable[Event]) -> None:
    for event in events:
        observer.notify(event)


def runs(case: ObserverCase) -> None:
    """`notify(event)` accepts every event of a run."""
    case.act()


def unknown_events(case: ObserverCase) -> None:
    """`notify(event)` accepts an event of an unknown kind: later versions may have more kinds."""
    _notify(case.another(), (*_events()[:2], UnknownEvent()))


def resumed(case: ObserverCase) -> None:
    """An observer follows a run that is resumed in its second mega-batch."""
    _notify(case.another(), (_started(done=1), *_events()[8:]))


def leaves_events(case: ObserverCase) -> None:
    """The observer does not change what events hold."""
    events = _events()
    before = copy.deepcopy(events)
    _notify(case.another(), events)
    for event, original in zip(events, before, strict=True):
        if event != original:
            raise Failure(f"it changes what {type(event).__name__} holds, which other observers see too")


PROMISES = (
    row(runs),
    row(unknown_events),
    row(resumed),
    row(leaves_events),
    Row("own-randomness", "The global random state is not changed.", lambda case: case.require_random_state()),
    rows.LEAVES_SETTINGS,
)
