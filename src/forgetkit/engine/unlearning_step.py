"""The step between two mega-batches: score, select, reset."""

from __future__ import annotations

import logging
from typing import Any

from forgetkit import unlearning
from forgetkit.contracts import Unlearned
from forgetkit.data import SamplePool, VisibleData
from forgetkit.data.batches import ScoringBatches
from forgetkit.data.stream import ROLES
from forgetkit.engine.history import needs_previous_weights
from forgetkit.engine.state import TrainingState
from forgetkit.errors import ComponentError
from forgetkit.seeding import Seeds

_log = logging.getLogger("forgetkit")


def unlearn_after(state: TrainingState, revealed: VisibleData) -> tuple[dict[str, Any], unlearning.MaskRecorder]:
    """Unlearn after a mega-batch, on the samples that ``--score-on`` names; return the report and the masks."""
    context = state.context
    for role in ROLES:
        state.pools.pop((role, revealed.index), None)  # training and evaluation are done
    pool = scoring_pool(state, revealed)
    weights = {}
    if needs_previous_weights(context):
        weights = {name: p.detach().clone() for name, p in state.network.named_parameters()}
    masks = unlearning.MaskRecorder()
    try:
        report = unlearn_on(state, pool, context.seeds.within("unlearn", revealed.index), masks)
    except ComponentError as error:
        raise type(error)(f"after mega-batch {revealed.index}: {error}") from error
    state.passes.add(report.forward_passes, report.backward_passes)
    warn_of_repeats(state, report)
    for remark in report.remarks:
        _log.warning("after mega-batch %d: %s", revealed.index, remark)
    state.previous.update(weights)
    content = report.as_dict()
    context.events.emit(Unlearned(revealed.index, content))
    return content, masks


def scoring_pool(state: TrainingState, revealed: VisibleData) -> SamplePool:
    """The training samples that ``--score-on`` names."""
    ids = state.stream.scoring_ids(state.context.plan.config.score_on, revealed.index)
    return SamplePool.fitting(revealed.excerpt("train", ids), state.context.device)


def unlearn_on(
    state: TrainingState, pool: SamplePool, seeds: Seeds, masks: unlearning.MaskRecorder | None = None
) -> unlearning.UnlearnReport:
    """Reset the entries that matter least to the samples of ``pool``; ``masks`` records them if the run keeps masks."""
    plan, config = state.context.plan, state.context.plan.config
    return unlearning.unlearn(
        state.network,
        ScoringBatches(
            pool,
            seeds.within("score"),
            config.score_batch,
            config.score_sampling,
            state.context.run_data.augment if config.score_transform == "train" else "none",
            state.context.stop.check,
        ),
        importance=plan.importance,
        reinit=plan.reinit,
        optimizer=state.optimizer,
        seeds=seeds,
        history=state.history,
        scoring=unlearning.Scoring(config.score_params, config.score_mode),
        policy=unlearning.ResetPolicy(config.optimizer_state, config.bn_stats),
        record_mask=masks if config.keep_masks == "all" else None,
    )


def warn_of_repeats(state: TrainingState, report: unlearning.UnlearnReport) -> None:
    """Warn, once in a run, of fresh values that another build of the network has too."""
    if report.repeated is not None and not state.runner.warned:
        state.runner.warned = True
        _log.warning("%s", report.repeated)
