"""The training of the network on a mega-batch: a loop over epochs."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing

from forgetkit.contracts import EpochEnded, MegaBatchRevealed, StepProgress
from forgetkit.data import VisibleData
from forgetkit.engine.context import RunContext
from forgetkit.engine.evaluation import validation_accuracy
from forgetkit.engine.events import EventDispatcher
from forgetkit.engine.state import TrainingState
from forgetkit.seeding import preserved_rng
from forgetkit.system.torch_settings import settings_restored
from forgetkit.training import EpochProgress, Rate, Schedule, share_milestones

_PROGRESS_SECONDS = 0.2


def train_stepwise(state: TrainingState, revealed: VisibleData) -> Generator[None, None, None]:
    """Train on all visible samples, from where ``state`` stands to the end of the mega-batch.

    Yields after each step and after each epoch, where a checkpoint can be written: ``state.epoch_progress`` holds the
    unfinished epoch, and is None after its last step. Close the generator if it is left early.
    """
    context, mega_batch = state.context, revealed.index
    pool, sizes = state.pool(revealed, "train"), context.epochs(mega_batch)
    context.events.emit(MegaBatchRevealed(mega_batch, len(revealed.arrived), len(pool), len(revealed.val)))
    if state.epochs_done == 0 and state.is_between_epochs:
        state.trainer.begin(pool, mega_batch, context.seeds)
    for epoch in range(state.epochs_done + 1, sizes.count + 1):
        if state.early_stopping.should_stop:
            break
        rate = _rate(context, epoch, sizes.before(epoch))
        progress = state.epoch_progress or EpochProgress.start(context.device)
        screen = _ThrottledProgress(context.events)
        with (
            settings_restored(f"the model {context.plan.config.model} in training"),
            closing(
                state.trainer.steps(pool, mega_batch, epoch, rate, context.seeds, progress, sizes.of(epoch))
            ) as steps,
        ):
            for _ in steps:
                screen.show(progress)
                if progress.steps < progress.total:
                    state.epoch_progress = progress
                    yield
        result = progress.result()
        state.epoch_progress, state.epochs_done = None, epoch
        state.skipped += result.skipped
        context.events.emit(
            EpochEnded(
                mega_batch=mega_batch,
                epoch=epoch,
                epochs=sizes.count,
                loss=result.loss,
                accuracy=result.accuracy,
                lr=rate(0),
                samples=result.samples,
                seconds=result.seconds,
                val_accuracy=validation_accuracy(state, revealed, epoch),
                skipped=result.skipped,
            )
        )
        yield
    state.carried_epoch = state.early_stopping.restore_best(state.network, state.epochs_done)
    state.require_finite()  # the last step may have been the one that went too far


def _rate(context: RunContext, epoch: int, before: int) -> Rate:
    """The learning rate in an epoch after ``before`` samples; it is constant unless ``--samples`` is given."""
    config = context.plan.config
    lr, milestones = config.lr or 0.0, config.milestones
    if config.samples is None:
        rate = Schedule(config.schedule, lr, config.epochs, milestones or (), config.gamma).at(epoch)
        return lambda done: rate
    milestones = share_milestones(config.samples) if milestones is None else milestones
    schedule = Schedule(config.schedule, lr, config.samples, milestones, config.gamma)
    return lambda done: schedule.after(before + done)


class _ThrottledProgress:
    """Emits the steps of an epoch a few times a second at most."""

    def __init__(self, events: EventDispatcher) -> None:
        self._events, self._next = events, time.monotonic() + _PROGRESS_SECONDS

    def show(self, progress: EpochProgress) -> None:
        if time.monotonic() >= self._next:
            with preserved_rng():  # an observer that draws shifts no dropout
                self._events.emit(StepProgress(progress.mega_batch, progress.epoch, progress.steps, progress.total))
            self._next = time.monotonic() + _PROGRESS_SECONDS
