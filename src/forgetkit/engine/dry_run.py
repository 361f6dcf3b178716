"""What a run would be and cost, from a timed sample; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forgetkit import contracts, training
from forgetkit.config import Plan
from forgetkit.data import SamplePool, VisibleData
from forgetkit.data.batches import fits_in_memory
from forgetkit.engine.context import EventDispatcher, RunContext, compute_settings
from forgetkit.engine.disk_usage import disk_bytes
from forgetkit.engine.state import TrainingState
from forgetkit.system.memory import translate_oom

_SECONDS = 3.0
_LR = 1e-6  # small, so that the same few samples again and again make nothing diverge


def estimate_cost(
    plan: Plan, observers: Sequence[contracts.Observer], cache: Path, *, remarks: bool = True
) -> dict[str, Any]:
    """Load the data, build the network, train and evaluate on a little of the first mega-batch.

    Training is timed for about three seconds, at least two steps, evaluation and one forgetting once.
    Time is what the run takes at that pace; memory is the most that this took and what the largest pool of samples
    will add, None where the system does not say. With ``remarks``, what the source of the data remarks and what its
    audit finds are logged.
    """
    bus = EventDispatcher([*plan.observers, *observers])
    machine = compute_settings(plan.config.threads, plan.config.device, deterministic=plan.config.deterministic)
    with machine, translate_oom():
        context = RunContext.prepare(plan, bus, cache)
        if remarks:
            context.warn_of_remarks()
        context.note(context.audit(), warn=remarks)
        learner = TrainingState.new(context)
        context, config = learner.context, learner.context.plan.config
        for event in learner.resolved_options:
            bus.emit(event)
        context.note(learner.smoke_test(), about=f"the model {contracts.component_name(context.plan.model)}")
        revealed = learner.stream.reveal(1)
        per_sample, steps = _training_pace(learner, revealed)
        evaluation = _evaluation_pace(learner, revealed)
        forgetting = _forgetting_seconds(learner, revealed) if config.mega_batches > 1 else 0.0
        disk = disk_bytes(learner)
    epochs = [context.epochs(index) for index in range(1, config.mega_batches + 1)]
    samples = sum(sizes.samples for sizes in epochs)
    looks = [1 + (sizes.count if learner.early_stopping.needs_validation else 0) for sizes in epochs]
    validated = config.val_fraction * sum(size * look for size, look in zip(context.sizes, looks, strict=True))
    judged = sum(context.sizes) + validated + len(context.data.test) * config.mega_batches
    memory, largest = context.peak_memory(), max(context.sizes) * context.data.train.inputs[0].nbytes
    if not fits_in_memory(largest, context.device):  # it is read batch by batch
        largest = 0
    return {
        "dry_run": True,
        "method": plan.method,
        "preset": config.preset,
        "overrides": dict(plan.overrides),
        "config": config.model_dump(mode="json"),
        "augment": context.augment,
        "audit": list(context.findings),
        "parameters": learner.parameters,
        "train_samples": context.sizes,
        "samples_to_be_seen": samples,
        "timed_steps": steps,
        "estimated_seconds": samples * per_sample + judged * evaluation + (config.mega_batches - 1) * forgetting,
        "estimated_memory_bytes": None if memory is None else memory + largest,
        "estimated_disk_bytes": disk,
    }


def _training_pace(learner: TrainingState, revealed: VisibleData) -> tuple[float, int]:
    """Seconds per training sample, and over how many steps they were measured."""
    config, context = learner.context.plan.config, learner.context
    few = revealed.train[: 2 * config.batch_size]
    pool = SamplePool.of(revealed.read("train", few), context.device)
    learner.trainer.begin(pool, 1, context.seeds)
    learner.trainer.epoch(pool, 1, 1, _LR, context.seeds)  # the first steps are slower: not timed
    began, seen, steps = time.perf_counter(), 0, 0
    while not seen or time.perf_counter() - began < _SECONDS:
        learner.trainer.epoch(pool, 1, 1, _LR, context.seeds)
        seen += len(pool)
        steps += -(-len(pool) // config.batch_size)
    return (time.perf_counter() - began) / seen, steps


def _evaluation_pace(learner: TrainingState, revealed: VisibleData) -> float:
    few = revealed.train[:512]
    pool = SamplePool.of(revealed.read("train", few), learner.context.device)
    began = time.perf_counter()
    training.count_correct(learner.model, pool, learner.context.seeds, bf16=learner.trainer.bf16)
    return (time.perf_counter() - began) / len(pool)


def _forgetting_seconds(learner: TrainingState, revealed: VisibleData) -> float:
    ids = learner.stream.scoring_ids(learner.context.plan.config.score_on, revealed.index)
    pool = SamplePool.fitting(revealed.excerpt("train", ids), learner.context.device)
    began = time.perf_counter()
    learner.forget(pool, learner.context.seeds.within("rehearsal"))
    return time.perf_counter() - began
