"""The evaluation of the network on its own samples and on the test part."""

from __future__ import annotations

from typing import Literal

from forgetkit import training
from forgetkit.config import name_of
from forgetkit.contracts import MegaBatchResult, Role
from forgetkit.data import VisibleData
from forgetkit.engine.state import TrainingState
from forgetkit.system.torch_settings import settings_restored


def evaluate(state: TrainingState, revealed: VisibleData) -> MegaBatchResult:
    """Evaluate the weights that are carried on, on the training, validation and test parts."""
    train = _accuracy(state, revealed, "train")
    val = _accuracy(state, revealed, "val") if len(revealed.val) else None
    correct, total = _count_correct(state, revealed, "test")
    return MegaBatchResult(
        index=revealed.index,
        train_samples=len(revealed.train),
        val_samples=len(revealed.val),
        epochs=state.epochs_done,
        samples_seen=state.samples_done,
        train_accuracy=train,
        val_accuracy=val,
        generalization_gap=None if val is None else train - val,
        test_accuracy=correct / total,
        test_errors=total - correct,
        test_samples=total,
        forward_passes=state.passes.forward,
        backward_passes=state.passes.backward,
        seconds=0.0,
        carried_epoch=state.carried_epoch,
        skipped_steps=state.skipped,
        interventions=_resets(state),
    )


def validation_accuracy(state: TrainingState, revealed: VisibleData, epoch: int) -> float | None:
    """The validation accuracy after an epoch, noted for early stopping; None if nothing depends on it."""
    if not state.early_stopping.needs_validation:
        return None
    accuracy = _accuracy(state, revealed, "val", epoch)
    state.early_stopping.update(epoch, accuracy, state.network)
    return accuracy


def _accuracy(state: TrainingState, revealed: VisibleData, role: Role, *epoch: int) -> float:
    correct, total = _count_correct(state, revealed, role, *epoch)
    return correct / total


def _count_correct(
    state: TrainingState, revealed: VisibleData, part: Role | Literal["test"], *epoch: int
) -> tuple[int, int]:
    context, config = state.context, state.context.plan.config
    pool, seeds = state.pool(revealed, part), context.seeds.within("judge", revealed.index, part, *epoch)
    state.require_no_leftover_hooks()
    is_augmented = part == "val" and config.val_transform == "train"
    with settings_restored(f"the model {config.model}"):
        return training.count_correct(
            state.network,
            pool,
            seeds,
            augment=context.run_data.augment if is_augmented else "none",
            bf16=state.trainer.bf16,
            before_batch=None if epoch else context.stop.check,  # an epoch ends before the run stops
        )


def _resets(state: TrainingState) -> dict[str, int]:
    """How many entries each intervention of the plan has reset in this mega-batch."""
    plan, runner = state.context.plan, state.runner
    counts = dict(zip(map(id, runner.interventions), runner.resets, strict=True))
    resets: dict[str, int] = {}
    for intervention, spec in zip(plan.interventions, plan.config.interventions, strict=True):
        name = name_of(spec)
        resets[name] = resets.get(name, 0) + counts[id(intervention)]
    return resets
