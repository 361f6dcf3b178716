"""What an observer promises."""

from __future__ import annotations

import copy
from dataclasses import dataclass

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
from forgetkit.testing import comparing
from forgetkit.testing.common import KitCase
from forgetkit.testing.metrics import row
from forgetkit.testing.promise import Failure, Promise, promise


def _events() -> tuple[Event, ...]:
    """Those of a short run, each kind at least once."""
    config = {"dataset": "digits", "model": "mlp", "seed": 0}
    layers = {"head.weight": {"size": 40, "reset": 8}}
    report = {"scored": 40, "reset": 8, "threshold": 0.1, "seconds": 0.2, "layers": layers, "buffers": []}
    first = (
        MegaBatchRevealed(1, 100, 90, 10),
        StepProgress(1, 1, 1, 2),
        EpochEnded(1, 1, 1, 0.7, 0.5, 0.1, 90, 1.5, 0.4),
        Unlearned(1, report),
        Checkpointed(1, 1, "mega-batch-1.pt"),
        MegaBatchEnded(row(1, 20)),
    )
    second = (
        MegaBatchRevealed(2, 100, 90, 0),
        EpochEnded(2, 1, 1, 0.6, 0.6, 0.1, 90, 1.5),
        MegaBatchEnded(row(2, 13, validated=False)),
    )
    return (
        LoadProgress("loading digits", 1, 2),
        RunStarted("a-run", "runs/a-run", "masked", config, 100, 2, 1, (90, 90)),
        *(*first, *second),
        RunEnded({"schema": 1, "run": "a-run", "config": config, "mega_batches": [], "status": "completed"}),
    )


@dataclass(frozen=True)
class UnknownEvent(Event):
    """A kind of event that no observer knows yet."""


def runs(case: KitCase) -> None:
    """`notify(event)` takes every event of a run."""
    observer = case.another()
    for event in _events():
        observer.notify(event)


def unknown_events(case: KitCase) -> None:
    """An event of a kind that it does not know is taken too: later versions may have more of them."""
    observer = case.another()
    for event in (*_events()[:2], UnknownEvent()):
        observer.notify(event)


def resumed(case: KitCase) -> None:
    """A run that is taken up in its second mega-batch is followed from there."""
    observer, events = case.another(), _events()
    config = {"dataset": "digits", "model": "mlp", "seed": 0}
    observer.notify(RunStarted("a-run", "runs/a-run", "masked", config, 100, 2, 1, (90, 90), done=1))
    for event in events[8:]:
        observer.notify(event)


def leaves_events(case: KitCase) -> None:
    """What events hold is as before."""
    observer, events = case.another(), _events()
    before = copy.deepcopy(events)
    for event in events:
        observer.notify(event)
    for event, kept in zip(events, before, strict=True):
        if event != kept:
            raise Failure(f"it changes what {type(event).__name__} holds; others see the same event")


def own_randomness(case: KitCase) -> None:
    """The global random state is left as it was."""
    observer = case.another()
    with comparing.watch_random_state():
        for event in _events():
            observer.notify(event)


def leaves_settings(case: KitCase) -> None:
    """The process-wide settings of torch and NumPy (default dtype, grad mode, autocast …) are as they were."""
    observer = case.another()
    with comparing.watch_settings():
        for event in _events():
            observer.notify(event)


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return promise("observers", runs, unknown_events, resumed, leaves_events, own_randomness, leaves_settings)
