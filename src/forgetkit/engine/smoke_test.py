"""The smoke test of a run: one step and one reset on a copy of the network, before a file is written."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from forgetkit import training
from forgetkit.contracts import component_name
from forgetkit.data import SamplePool
from forgetkit.engine.state import TrainingState
from forgetkit.engine.unlearning_step import unlearn_on, warn_of_repeats
from forgetkit.errors import DivergedError

_log = logging.getLogger("forgetkit")
_LR = 1e-6  # small: whether the real one diverges shows in the run


def smoke_test(state: TrainingState) -> tuple[str, ...]:
    """Take a step and reset on a copy of ``state``; log and return what is strange about the network's outputs.

    Raises:
        ForgetkitError: The network, a component or the data is at fault, so that the run cannot work.
    """
    context = state.context
    rebuild = partial(training.build_network, context.plan.model, state.inputs, context.seeds, context.plan.init)
    trial = TrainingState.new(context, state.inputs, training.copy_network(state.network, rebuild))
    trial.trainer = replace(trial.trainer, record=None)
    trial.repeated_values = state.repeated_values
    trial.runner.history = trial.history
    trial.runner.seeds, trial.runner.check_finite = context.seeds.within("try"), True
    with training.eval_mode(state.network):  # a function that the copy shares with the network may write to its buffers
        findings = _try_out(trial)
    state.runner.warned = trial.runner.warned
    for finding in findings:
        _log.warning("the model %s: %s", component_name(context.plan.model), finding)
    return findings


def _try_out(trial: TrainingState) -> tuple[str, ...]:
    context, config = trial.context, trial.context.plan.config
    seeds = context.seeds.within("try")
    ids = context.run_data.mega_batches[0].train[: config.batch_size]
    pool = SamplePool.of(trial.stream.reveal(1).read("train", ids), context.device)
    trial.trainer.begin(pool, 1, seeds)
    try:
        trial.trainer.epoch(pool, 1, 1, _LR, seeds)
    except DivergedError as error:
        if config.on_nan == "stop":  # with "skip", other samples may do
            raise DivergedError(
                f"the loss of the first {len(pool)} samples is NaN or infinite before anything was learned: "
                "look at the network and the data"
            ) from error
    trial.runner.require_tensors()
    trial.require_finite("after a single step, tried out before the run")
    trial.require_no_leftover_hooks()
    if config.mega_batches > 1:
        # All samples are scored on: a share of two is one, which batch normalisation cannot be measured on.
        warn_of_repeats(trial, unlearn_on(trial, pool, seeds))
        trial.require_no_leftover_hooks()
    return training.audit_outputs(trial.network, pool, seeds)  # last: it moves running statistics
