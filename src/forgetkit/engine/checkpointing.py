"""What a run does between two steps or batches: tell how far it is, see whether a state is due or a stop asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from forgetkit.config import RunConfig
from forgetkit.contracts import StepProgress
from forgetkit.data.batches import ScoringBatches
from forgetkit.engine.context import EventDispatcher
from forgetkit.seeding import preserved_rng
from forgetkit.system.interrupts import StopRequest


class CheckpointTimer:
    """When a state is to be written: after so many epochs, or once the last is so old."""

    def __init__(self, config: RunConfig) -> None:
        self._epochs, self._seconds = config.checkpoint_epochs, config.checkpoint_seconds
        self.start_over()

    def start_over(self) -> None:
        """One was just written."""
        self._since = time.monotonic()

    def within_epoch(self) -> bool:
        """Whether one is due in the midst of an epoch."""
        return time.monotonic() - self._since >= self._seconds

    def after_epoch(self, epoch: int) -> bool:
        """Whether one is due now that this epoch of a mega-batch (from 1) has ended."""
        return self.within_epoch() or (self._epochs is not None and epoch % self._epochs == 0)


@dataclass(frozen=True, eq=False)
class InterruptibleBatches:
    """Batches that end where it is asked to stop: whoever reads them leaves nothing half done."""

    batches: ScoringBatches
    halt: StopRequest

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            self.halt.check()
            yield batch


class ThrottledProgress:
    """Tells of steps a few times a second at most, so that a screen costs nothing."""

    def __init__(self, bus: EventDispatcher, mega_batch: int, epoch: int) -> None:
        self._bus, self._where, self._next = bus, (mega_batch, epoch), time.monotonic() + 0.2

    def __call__(self, done: int, total: int) -> None:
        """So many steps of an epoch's are made."""
        if time.monotonic() >= self._next:
            with preserved_rng():  # an observer that draws shifts no dropout
                self._bus.emit(StepProgress(*self._where, done, total))
            self._next = time.monotonic() + 0.2
