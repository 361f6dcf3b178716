"""The writing of checkpoints: when one is due, and what happens on a stop request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from forgetkit.config import RunConfig
from forgetkit.contracts import Checkpointed, MegaBatchResult
from forgetkit.engine.state import TrainingState
from forgetkit.errors import ComponentError, DivergedError
from forgetkit.seeding import preserved_rng
from forgetkit.storage import Checkpoint, RunDirectory
from forgetkit.system.interrupts import GracefulStop


class CheckpointTimer:
    """Decides when a checkpoint is due: after a number of epochs, or a number of seconds after the last one."""

    def __init__(self, config: RunConfig) -> None:
        self._epochs, self._seconds = config.checkpoint_epochs, config.checkpoint_seconds
        self.restart()

    def restart(self) -> None:
        """Restart the count after a checkpoint."""
        self._since = time.monotonic()

    def is_due_within_epoch(self) -> bool:
        """Whether a checkpoint is due between two steps."""
        return time.monotonic() - self._since >= self._seconds

    def is_due_after_epoch(self, epoch: int) -> bool:
        """Whether a checkpoint is due after ``epoch`` (from 1) of a mega-batch."""
        return self.is_due_within_epoch() or (self._epochs is not None and epoch % self._epochs == 0)


@dataclass(eq=False)
class Checkpointer:
    """Writes the checkpoints of a run: its ``state``, its finished ``rows`` and its ``start_time``."""

    state: TrainingState
    directory: RunDirectory
    rows: list[MegaBatchResult]
    start_time: float
    """When the run started, in seconds of ``time.perf_counter()``, less the seconds before it was resumed."""
    timer: CheckpointTimer = field(init=False)

    def __post_init__(self) -> None:
        self.timer = CheckpointTimer(self.state.context.plan.config)

    def save(self) -> None:
        """Write a checkpoint now."""
        state = self.state
        checkpoint = Checkpoint(state.checkpoint(), tuple(self.rows), time.perf_counter() - self.start_time)
        file = self.directory.save_checkpoint(checkpoint)
        self.timer.restart()
        state.context.events.emit(Checkpointed(state.mega_batch, state.epochs_done, file.name, state.steps_done))

    def save_if_due(self) -> None:
        """Write a checkpoint if one is due, within an epoch or after one.

        Raises:
            GracefulStop: On a stop request; :meth:`save` can be called then.
        """
        state, stop = self.state, self.state.context.stop
        if state.is_between_epochs:
            stop.check()
            is_last = state.epochs_done == state.context.epochs(state.mega_batch).count
            if not is_last and self.timer.is_due_after_epoch(state.epochs_done):
                self.save()
        elif stop.requested or self.timer.is_due_within_epoch():
            state.pause_epoch()
            stop.check()
            with preserved_rng():
                self.save()

    @contextmanager
    def save_on_stop(self) -> Iterator[None]:
        """Write a checkpoint on a stop request; on divergence, name the last good one in a note of the error."""
        with self.state.context.stop.deferred():
            try:
                try:
                    yield
                except GracefulStop:
                    self.save()
                    raise
            except KeyboardInterrupt as stopped:
                stopped.add_note(f"the run in {self.directory.path} can be resumed")
                raise
            except (DivergedError, ComponentError) as error:
                good = self.directory.newest_state()
                error.add_note("no state was written before" if good is None else f"the last good state is {good}")
                raise
