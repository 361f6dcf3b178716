"""Unlearning as three steps: score -> select -> apply. Algorithm 1 of Ramkumar et al., 2023, lines 8 to 11.

    s = importance(θ; data)             score    the probe gives a criterion gradients and outputs      ``probe``
    M = 1[s > the k-th smallest of s]   select   a reinit method selects k = ⌊fraction · N⌋ entries     ``selection``
    θ ← M · θ + (1 - M) · ξ             apply    fresh values ξ replace the selected ones in place      ``apply``

M is the paper's: 1 for retained entries. A mask in this API is 1 - M: True = the entry is selected and gets a fresh
value. The reinit method runs the middle step: its generator calls ``context.select(fraction)``. A method may also
select nothing and reset, say, the last layer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from forgetkit.contracts import BnStats, Importance, OptimizerState, OptimizerStateRule, Reinit, component_name
from forgetkit.errors import NoMatchError, OptionError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import settings_restored
from forgetkit.unlearning.apply import AppliedChanges, all_or_nothing, apply
from forgetkit.unlearning.batchnorm import refresh_bn_stats, require_statistics
from forgetkit.unlearning.building import unwrap
from forgetkit.unlearning.followers import Followers
from forgetkit.unlearning.fresh_values import NO_HISTORY, ModelHistory
from forgetkit.unlearning.integrity import assert_params_unchanged, attribute_errors_to, with_network_settings
from forgetkit.unlearning.masks import MaskCallback
from forgetkit.unlearning.model_view import DEFAULT_SCORING, ModelView, Scoring
from forgetkit.unlearning.objective import Loss, Objective
from forgetkit.unlearning.optimizer_state import OptimizerStates, list_optimizers, require_trained_by
from forgetkit.unlearning.parametrized_buffers import follow_weights
from forgetkit.unlearning.probe import Batches, ReplayableBatches
from forgetkit.unlearning.process_layout import ALONE, ProcessLayout
from forgetkit.unlearning.protection import Protect, Protection, require_whole
from forgetkit.unlearning.report import UnlearnReport, change_remark, tie_remark
from forgetkit.unlearning.reset_context import ResetContext
from forgetkit.unlearning.shards import precision_remark
from forgetkit.unlearning.structure import aliases
from forgetkit.unlearning.tensor_parts import plain_operands, reshard
from forgetkit.unlearning.tensor_write import Undo

_log = logging.getLogger("forgetkit")


@dataclass(frozen=True)
class ResetPolicy:
    """What happens to the optimizer's state and to running statistics after a reset.

    Args:
        optimizer_state: ``"zero"`` sets the state of the reset entries (momentum, Adam's moments) to what a new
            optimizer holds, which is zero for most; ``"rescaled"`` as well, but second moments start at the mean over
            the kept entries of their tensor, or as a new optimizer's if none is kept; ``"keep"`` keeps all state;
            ``"fresh"`` makes all of it that of a new optimizer.
        bn_stats: ``"keep"`` keeps the running statistics of batch normalisation, ``"reset"`` sets them to mean 0 and
            variance 1, ``"recalibrate"`` measures them again on the scoring batches.

    Raises:
        OptionError: When it is used, if an option has another value or nothing to act on.

    Example:
        >>> import torch, forgetkit
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
        >>> policy = forgetkit.ResetPolicy(bn_stats="reset")
        >>> report = forgetkit.unlearn(model, importance="magnitude", reinit="masked:fraction=0.25", policy=policy)
        >>> report.reset, report.buffers
        (8, ('1.running_mean', '1.running_var', '1.num_batches_tracked'))

    References:
        Algorithm 1 of Ramkumar et al. (2023) names neither; their code keeps both.
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
    optimizer: object = None,
    seeds: Seeds,
    loss: Loss | Objective | None = cross_entropy,
    history: ModelHistory = NO_HISTORY,
    scoring: Scoring = DEFAULT_SCORING,
    policy: ResetPolicy = ResetPolicy(),
    layout: ProcessLayout = ALONE,
    protect: Protect | None = None,
    record_mask: MaskCallback | None = None,
    followers: object = None,
    state_rules: Sequence[OptimizerStateRule] = (),
) -> UnlearnReport:
    """Score, select and reset entries of ``model`` in place; clear the optimizer's state of the old values.

    Args:
        model: The network; a compiled one is unwrapped.
        batches: Batches for the criterion, or None.
        importance: Scores the trainable parameters, if ``reinit`` needs scores.
        reinit: Proposes the changes.
        optimizer: The optimizer that trains ``model``, or several in a list.
        seeds: Fix every draw.
        loss: Maps (outputs, targets) to the batch's mean loss; or an objective, for batches of any shape.
        history: The model's past; without it, fresh values come from each layer's own ``reset_parameters``.
        scoring: Which parameters are scored, and in which mode.
        policy: What happens to the optimizer's state and to running statistics.
        layout: The processes that act together, and what they hold. All of them reset, or none.
        protect: What is neither scored nor reset.
        record_mask: Gets each mask.
        followers: Networks of the same architecture that get the same changes.
        state_rules: Rules of third parties for the state of their optimizers.

    Returns:
        What was scored and changed.

    Raises:
        OptionError: If ``reinit`` needs scores and there is no criterion, or the other way round.
        NoMatchError: If no parameter matches.
        ComponentError: If a component breaks its contract. On any error the model is as before.
    """
    started = time.perf_counter()
    model = unwrap(model)
    reshard(model)
    require_consistent(importance, reinit)
    if optimizer is not None:
        require_trained_by(optimizer, model)
    states = OptimizerStates.of(optimizer, policy.optimizer_state, state_rules)
    copies = Followers.of(followers, model)
    require_statistics(model, policy.bn_stats)

    criterion = "examining" if importance is None else component_name(importance)
    with layout.common_buffers(model, keep=True), plain_operands(model):
        # Score.
        with assert_params_unchanged(model, criterion):
            gathered, protection = layout.gathered(_replayable(batches)), Protection.of(model, protect)
            require_whole(model, protection)
            view = ModelView.of(model, gathered, loss, seeds, scoring, history, protection)
            scores = None if importance is None else view.scores(importance)
        context = ResetContext(view, reinit, history.memory(reinit), scores, criterion, layout.selecting)
        # Select and apply. A method that draws without a generator draws from a stream of its own.
        with all_or_nothing() as undo, seeded_rng(seeds.number("propose")):
            applied = _select_and_apply(context, reinit, states, undo, record_mask, copies)
            if applied.layers:
                _refresh(context, policy, copies, applied, undo)
            if policy.optimizer_state == "fresh":
                applied.optimizer_cleared += states.reset_all(model, undo)
            layout.require_equal(model, list_optimizers(optimizer))
            layout.add_up(applied)
            report = _report(context, applied, importance, states, time.perf_counter() - started)
            layout.processes.finish()  # raises, and undoes everything, if another process failed
    return report


def _replayable(batches: Batches | None) -> ReplayableBatches | None:
    return None if batches is None else ReplayableBatches(batches)


def _refresh(
    context: ResetContext, policy: ResetPolicy, followers: Followers, applied: AppliedChanges, undo: Undo
) -> None:
    """Let the buffers of computed weights follow, and keep, reset or recalibrate running statistics."""
    view = context.view
    fixed = view.protection.touched
    written = follow_weights(view.model, applied.layers.keys(), undo, context.draw_with, fixed)
    counted = None if view.batches is None else view.passes.count_forward(view.batches)
    seed, objective = view.seeds.number("statistics"), Objective.of(view.loss)
    written += refresh_bn_stats(view.model, policy.bn_stats, counted, undo, seed, objective, fixed)
    applied.buffers.extend(name for name in written if name not in applied.buffers)
    applied.followed += followers.write_buffers(written, view.model, undo)


def require_consistent(importance: Importance | None, reinit: Reinit) -> None:
    """Raise ``OptionError`` if ``reinit`` needs a criterion that is not there, or has no use for the one that is."""
    method, needs_scores = component_name(reinit), bool(getattr(reinit, "needs_scores", False))
    if needs_scores and importance is None:
        raise OptionError(f"{method} resets entries by their importance: give it an importance criterion")
    if importance is not None and not needs_scores:
        raise OptionError(f"{method} looks at no scores, so the importance criterion would be ignored: leave it out")


def _select_and_apply(
    context: ResetContext,
    reinit: Reinit,
    states: OptimizerStates,
    undo: Undo,
    record_mask: MaskCallback | None,
    followers: Followers,
) -> AppliedChanges:
    """Run the reinit method and apply each change that it proposes.

    The method is a generator: it calls ``context.select()`` for masks 1 - M and ``context.fresh()`` for values ξ, and
    yields a change for each parameter.
    """
    view, method = context.view, context.name
    names, require_ready = {*view.targets, *view.buffers}, partial(view.require_not_in_use, method)
    # Once around all changes, because a generator computes between two of them.
    with settings_restored(f"the reinit method {method}"):
        with attribute_errors_to(f"the reinit method {method}"):
            changes = reinit.propose(context)
        protected = view.protection.entries(view.model)
        applied = apply(
            view.model, changes, states, names, method, undo, require_ready, record_mask, followers, protected
        )
    if not applied.layers and not getattr(reinit, "changes_nothing", False):
        raise NoMatchError(f"{method} matched no parameter of {type(view.model).__name__}; nothing would be forgotten")
    if applied.layers and not applied.reset and applied.held_back:
        raise NoMatchError(f"every entry that {method} would reset is protected or pruned")
    return applied


def _report(
    context: ResetContext,
    applied: AppliedChanges,
    importance: Importance | None,
    states: OptimizerStates,
    seconds: float,
) -> UnlearnReport:
    view, selected = context.view, context.last_selection
    remarks = [change_remark(applied.reset, applied.changed), context.scale_remark, *view.notes.remarks(view.model)]
    reset = {name for name, layer in applied.layers.items() if layer.reset} | {*applied.buffers}
    if context.scores is not None and view.passes.backward:
        remarks.append(precision_remark(view.model))
    if selected is not None and not getattr(importance, "allows_ties", False):
        remarks.append(tie_remark(selected))
    remarks.extend(states.warnings)
    return UnlearnReport(
        scored=0 if context.scores is None else view.eligible,
        reset=applied.reset,
        threshold=None if selected is None else selected.threshold,
        seconds=seconds,
        forward_passes=view.passes.forward,
        backward_passes=view.passes.backward,
        layers=applied.layers,
        optimizer_cleared=applied.optimizer_cleared,
        buffers=tuple(applied.buffers),
        left_out=view.left_out,
        changed=applied.changed,
        tied=0 if selected is None else selected.tied,
        remarks=tuple(remark for remark in remarks if remark is not None),
        repeated=context.repeated,
        optimizer_notes=tuple(states.notes),
        followed=applied.followed,
        sources={name: source for name, source in context.sources.items() if name in reset},
        aliases={name: others for name, others in aliases(view.model).items() if name in reset},
    )


@with_network_settings
def score(
    model: nn.Module,
    batches: Batches | None,
    *,
    importance: Importance,
    seeds: Seeds,
    loss: Loss | Objective | None = cross_entropy,
    history: ModelHistory = NO_HISTORY,
    scoring: Scoring = DEFAULT_SCORING,
    protect: Protect | None = None,
    layout: ProcessLayout = ALONE,
) -> dict[str, Tensor]:
    """Return scores of the trainable parameters that the loss depends on; higher = keep. Changes nothing.

    Arguments are those of :func:`unlearn`.

    Raises:
        ComponentError: If all scores are equal and the criterion does not declare ``allows_ties``.
    """
    model = unwrap(model)
    reshard(model)
    criterion = component_name(importance)
    with layout.common_buffers(model, keep=False), plain_operands(model):
        with assert_params_unchanged(model, criterion):
            gathered, protection = layout.gathered(_replayable(batches)), Protection.of(model, protect)
            view = ModelView.of(model, gathered, loss, seeds, scoring, history, protection)
            scores = view.scores(importance)
        with view.read_only_access(criterion) if scores.lazy else torch.inference_mode(False):
            copies = {name: scores[name].clone() for name in scores}
        scores.require_different(layout.selecting)
        layout.processes.finish()
    for remark in view.notes.remarks(model):
        _log.warning("%s", remark)
    return copies
