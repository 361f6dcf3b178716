"""Forgetting, in anybody's training loop: probe, score, select, propose, apply, report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from forgetkit.contracts import BnStats, Importance, OptimizerState, Reinit, component_name
from forgetkit.errors import NoMatchError, OptionError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import settings_restored
from forgetkit.unlearning.apply import all_or_nothing, apply, clear_all_state
from forgetkit.unlearning.batchnorm import refresh_bn_stats, require_statistics
from forgetkit.unlearning.fresh_values import NO_HISTORY, ModelHistory
from forgetkit.unlearning.integrity import (
    assert_params_unchanged,
    attribute_errors_to,
    restore_state,
    with_network_settings,
)
from forgetkit.unlearning.masks import MaskCallback
from forgetkit.unlearning.model_view import DEFAULT_SCORING, ModelView, Scoring
from forgetkit.unlearning.probe import Batches, Loss
from forgetkit.unlearning.report import UnlearnReport, change_remark, tie_remark
from forgetkit.unlearning.reset_context import ResetContext
from forgetkit.unlearning.selection_group import SelectionGroup


@dataclass(frozen=True)
class ResetPolicy:
    """What is done about the traces of what was forgotten.

    optimizer_state: zero the per-entry state under the mask; keep it; or start afresh, as a new optimizer would.
    bn_stats: keep running statistics as they are, reset them, or recalibrate them on the scoring batches.
    """

    optimizer_state: OptimizerState = "zero"
    bn_stats: BnStats = "keep"


@with_network_settings
def unlearn(
    model: nn.Module,
    batches: Batches | None,
    *,
    importance: Importance | None,
    reinit: Reinit,
    optimizer: Optimizer | None = None,
    seeds: Seeds,
    loss: Loss = cross_entropy,
    past: ModelHistory = NO_HISTORY,
    scoring: Scoring = DEFAULT_SCORING,
    policy: ResetPolicy = ResetPolicy(),
    processes: SelectionGroup | None = None,
    record_mask: MaskCallback | None = None,
) -> UnlearnReport:
    """Make ``model`` forget, in place, and clear the optimizer's memory of what it forgot.

    ``importance`` scores the trainable parameters on ``batches``, ``reinit`` says what changes.
    Fresh values come from each layer's own ``reset_parameters`` unless ``past`` says otherwise. Several processes
    select together, and all of them forget or none does. ``record_mask`` gets each mask that is written under.

    Raises ``OptionError`` where ``reinit`` needs scores and there is no criterion (or the other way
    round), ``NoMatchError`` where no parameter was matched, ``ComponentError`` where a component
    breaks its contract. See Algorithm 1 of Ramkumar et al., 2023, lines 8 to 11.
    """
    began = time.perf_counter()
    model = unwrap(model)
    who = component_name(reinit)
    needs_scores = bool(getattr(reinit, "needs_scores", False))
    if needs_scores and importance is None:
        raise OptionError(f"{who} resets entries by their importance: give it an importance criterion")
    if importance is not None and not needs_scores:
        raise OptionError(f"{who} looks at no scores, so the importance criterion would be ignored: leave it out")
    if optimizer is not None:
        require_trained_by(optimizer, model)
    require_statistics(model, policy.bn_stats)

    criterion = "examining" if importance is None else component_name(importance)
    with assert_params_unchanged(model, criterion):
        with restore_state(model, seeds.number("lent"), training=scoring.mode == "train"):
            subject = ModelView.of(model, batches, loss, seeds, scoring, past)
        scores = subject.scores(importance) if importance is not None else None
    processes = processes or SelectionGroup()
    context = ResetContext(subject, seeds, reinit, past.memory(reinit), scores, criterion, processes)
    # A method that draws without a generator does so from its own stream.
    with all_or_nothing() as undo, seeded_rng(seeds.number("propose")):
        keeping = optimizer if policy.optimizer_state == "zero" else None
        names, ready = {*subject.targets, *subject.buffers}, partial(subject.require_back, who)
        with settings_restored(f"the reinit method {who}"):  # once, because a generator works on between two changes
            with attribute_errors_to(f"the reinit method {who}"):
                changes = reinit.propose(context)
            tally = apply(model, changes, keeping, names, who, undo, ready, record_mask)
        if not tally.layers and not getattr(reinit, "changes_nothing", False):
            raise NoMatchError(f"{who} matched no parameter of {type(model).__name__}; nothing would be forgotten")
        if tally.layers:
            looked_at = None if subject.batches is None else subject.passes.going_forward(subject.batches)
            settled = refresh_bn_stats(model, policy.bn_stats, looked_at, undo, seeds.number("statistics"))
            tally.buffers.extend(name for name in settled if name not in tally.buffers)
        if optimizer is not None and policy.optimizer_state == "fresh":
            tally.optimizer_cleared += clear_all_state(optimizer, model, undo)
        processes.part()  # where another process failed, nothing is forgotten here either
    reset = sum(layer.reset for layer in tally.layers.values())
    selected = context.last_selection
    remarks = [change_remark(reset, tally.changed)]
    if selected is not None and not getattr(importance, "allows_ties", False):
        remarks.append(tie_remark(selected))
    return UnlearnReport(
        scored=sum(p.numel() for p in subject.scored.values()) if scores is not None else 0,
        reset=reset,
        threshold=None if selected is None else selected.threshold,
        seconds=time.perf_counter() - began,
        forward_passes=subject.passes.forward,
        backward_passes=subject.passes.backward,
        layers=tally.layers,
        optimizer_cleared=tally.optimizer_cleared,
        buffers=tuple(tally.buffers),
        left_out=subject.left_out,
        changed=tally.changed,
        tied=0 if selected is None else selected.tied,
        remarks=tuple(remark for remark in remarks if remark is not None),
        repeated=context.repeated,
    )


@with_network_settings
def score(
    model: nn.Module,
    batches: Batches | None,
    *,
    importance: Importance,
    seeds: Seeds,
    loss: Loss = cross_entropy,
    past: ModelHistory = NO_HISTORY,
    scoring: Scoring = DEFAULT_SCORING,
) -> dict[str, Tensor]:
    """Scores of the trainable parameters that the loss depends on; higher = keep. Changes nothing.

    Raises ``ComponentError`` if they are all equal and the criterion does not say that it ``allows_ties``.
    """
    model = unwrap(model)
    who = component_name(importance)
    with assert_params_unchanged(model, who):
        with restore_state(model, seeds.number("lent"), training=scoring.mode == "train"):
            subject = ModelView.of(model, batches, loss, seeds, scoring, past)
        scores = subject.scores(importance)
    with subject.lend(who) if scores.lazy else torch.inference_mode(False):
        copies = {name: scores[name].clone() for name in scores}
    scores.require_different()
    return copies


def require_trained_by(optimizer: Optimizer, model: nn.Module) -> None:
    """``OptionError`` where the optimizer holds none of the model's parameters."""
    own = set(model.parameters())
    if not any(p in own for group in optimizer.param_groups for p in group["params"]):
        raise OptionError("the optimizer holds none of the model's parameters: give the one that trains this model")


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside what ``torch.compile`` gives: the same parameters, and nothing to trace through."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model
