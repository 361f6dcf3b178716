"""The dry run: what a run is and costs, from a timed sample. Nothing is written to a run directory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from forgetkit import contracts, training
from forgetkit.config import Plan
from forgetkit.data import SamplePool, VisibleData
from forgetkit.data.batches import fits_in_memory
from forgetkit.engine.auto import build_resolved
from forgetkit.engine.context import RunContext, compute_settings
from forgetkit.engine.disk_usage import disk_bytes
from forgetkit.engine.events import EventDispatcher
from forgetkit.engine.run_data import RunData
from forgetkit.engine.smoke_test import smoke_test
from forgetkit.engine.state import TrainingState
from forgetkit.engine.unlearning_step import scoring_pool, unlearn_on
from forgetkit.system import peak_memory
from forgetkit.system.interrupts import StopRequest
from forgetkit.system.memory import translate_oom

_SECONDS = 3.0
_LR = 1e-6  # small, so that training on the same few samples diverges for no network


def estimate_cost(
    plan: Plan, observers: Sequence[contracts.Observer], cache: Path, *, remarks: bool = True
) -> dict[str, Any]:
    """Load the data, build the network, train and evaluate on a little of the first mega-batch.

    Training is timed for about three seconds, at least two steps; evaluation and one reset once. The estimated time
    is that of the run at this pace. The estimated memory is the peak of the sample and the largest pool of samples;
    None if the system does not tell. With ``remarks``, the remarks of the data's source and the findings of its audit
    are logged.
    """
    events = EventDispatcher([*plan.observers, *observers])
    settings = compute_settings(plan.config.threads, plan.config.device, deterministic=plan.config.deterministic)
    with settings, translate_oom():
        peak = peak_memory.track_peak(torch.device(plan.config.device))
        run_data = RunData.prepare(plan, events, cache)
        findings = run_data.findings(log=remarks)
        plan, inputs, network, resolved = build_resolved(plan, run_data)
        context, config = RunContext(plan, run_data, events, StopRequest(), peak), plan.config
        state = TrainingState.new(context, inputs, network)
        for event in resolved:
            events.emit(event)
        findings += smoke_test(state)
        revealed = state.stream.reveal(1)
        per_sample, steps = _training_pace(state, revealed)
        evaluation = _evaluation_pace(state, revealed)
        unlearning = _unlearning_seconds(state, revealed) if config.mega_batches > 1 else 0.0
        disk = disk_bytes(state)
    epochs = [context.epochs(index) for index in range(1, config.mega_batches + 1)]
    evaluations = [1 + (sizes.count if state.early_stopping.needs_validation else 0) for sizes in epochs]
    validated = config.val_fraction * sum(size * count for size, count in zip(run_data.sizes, evaluations, strict=True))
    evaluated = sum(run_data.sizes) + validated + len(run_data.data.test) * config.mega_batches
    memory, largest = peak(), max(run_data.sizes) * run_data.data.train.inputs[0].nbytes
    if not fits_in_memory(largest, context.device):  # it is read batch by batch
        largest = 0
    samples = sum(context.samples)
    return {
        "dry_run": True,
        "method": plan.method,
        "preset": config.preset,
        "overrides": dict(plan.overrides),
        "config": config.model_dump(mode="json"),
        "augment": run_data.augment,
        "audit": findings,
        "parameters": state.parameters,
        "train_samples": list(run_data.sizes),
        "samples_to_be_seen": samples,
        "timed_steps": steps,
        "estimated_seconds": samples * per_sample + evaluated * evaluation + (config.mega_batches - 1) * unlearning,
        "estimated_memory_bytes": None if memory is None else memory + largest,
        "estimated_disk_bytes": disk,
    }


def _training_pace(state: TrainingState, revealed: VisibleData) -> tuple[float, int]:
    """Seconds per training sample, and the number of steps that were timed."""
    config, context = state.context.plan.config, state.context
    pool = SamplePool.of(revealed.read("train", revealed.train[: 2 * config.batch_size]), context.device)
    state.trainer.begin(pool, 1, context.seeds)
    state.trainer.epoch(pool, 1, 1, _LR, context.seeds)  # the first steps are slower: not timed
    start_time, seen, steps = time.perf_counter(), 0, 0
    while not seen or time.perf_counter() - start_time < _SECONDS:
        state.trainer.epoch(pool, 1, 1, _LR, context.seeds)
        seen += len(pool)
        steps += -(-len(pool) // config.batch_size)
    return (time.perf_counter() - start_time) / seen, steps


def _evaluation_pace(state: TrainingState, revealed: VisibleData) -> float:
    """Seconds per evaluated sample."""
    pool = SamplePool.of(revealed.read("train", revealed.train[:512]), state.context.device)
    start_time = time.perf_counter()
    training.count_correct(state.network, pool, state.context.seeds, bf16=state.trainer.bf16)
    return (time.perf_counter() - start_time) / len(pool)


def _unlearning_seconds(state: TrainingState, revealed: VisibleData) -> float:
    pool = scoring_pool(state, revealed)
    start_time = time.perf_counter()
    unlearn_on(state, pool, state.context.seeds.within("rehearsal"))
    return time.perf_counter() - start_time
