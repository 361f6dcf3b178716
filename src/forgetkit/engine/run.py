"""Anytime learning at macroscale: learn, unlearn, relearn over a stream of mega-batches.

:func:`_train_over_stream` is Algorithm 1 of Ramkumar et al., 2023.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from forgetkit import contracts
from forgetkit.config import Plan, name_of
from forgetkit.contracts import MegaBatchEnded, MegaBatchResult, OptionResolved, RunEnded, RunStarted
from forgetkit.engine.auto import build_resolved, with_recorded
from forgetkit.engine.checkpointing import Checkpointer
from forgetkit.engine.context import RunContext, compute_settings, use_threads, versions
from forgetkit.engine.disk_usage import warn_if_disk_low
from forgetkit.engine.evaluation import evaluate
from forgetkit.engine.events import EventDispatcher
from forgetkit.engine.run_data import RunData
from forgetkit.engine.smoke_test import smoke_test
from forgetkit.engine.state import TrainingState
from forgetkit.engine.training_loop import train_stepwise
from forgetkit.engine.unlearning_step import unlearn_after
from forgetkit.storage import SCHEMA, Checkpoint, Recorder, RunDirectory
from forgetkit.system import peak_memory
from forgetkit.system.interrupts import StopRequest
from forgetkit.system.memory import translate_oom
from forgetkit.system.torch_settings import settings_restored

_START = Checkpoint({}, (), 0.0)
_log = logging.getLogger("forgetkit")


def run_plan(
    plan: Plan,
    *,
    observers: Sequence[contracts.Observer] = (),
    cache: Path,
    resume: RunDirectory | None = None,
    stop: StopRequest | None = None,
    remarks: bool = True,
    keep_checkpoints: bool = False,
) -> dict[str, Any]:
    """Carry out a plan, or resume it; return the content of ``result.json``.

    Nothing is written before the data is checked and the smoke test has passed.

    Args:
        plan: What to run.
        observers: Observers beside those of the plan.
        cache: The folder for decoded data.
        resume: The directory of the run to resume.
        stop: Polled for stop requests; the run then writes a checkpoint and raises ``GracefulStop``.
        remarks: Log the remarks of the data's source and the findings of the audit.
        keep_checkpoints: Leave the checkpoints of a finished run; its caller removes them.
    """
    config, events, stop = plan.config, EventDispatcher([*plan.observers, *observers]), stop or StopRequest()
    settings = compute_settings(config.threads, config.device, deterministic=config.deterministic)
    with settings, translate_oom(), ExitStack() as stack:
        if resume is not None:
            stack.enter_context(resume.locked())
            resume.require_unfinished()  # another process may have finished it meanwhile
            plan = with_recorded(plan, resume.manifest.get("config", {}))
        peak = peak_memory.track_peak(torch.device(config.device))
        run_data = RunData.prepare(plan, events, cache)
        resolved: tuple[OptionResolved, ...] = ()
        if resume is not None:
            context = RunContext(plan, run_data, events, stop, peak)
            directory = resume
            state, checkpoint = _restore(context, directory)
        else:
            findings = run_data.findings(log=remarks)
            plan, inputs, network, resolved = build_resolved(plan, run_data)
            context = RunContext(plan, run_data, events, stop, peak)
            state, checkpoint = TrainingState.new(context, inputs, network), _START
            findings += smoke_test(state)
            warn_if_disk_low(state, Path(config.out))
            stack.enter_context(stop.deferred())  # from here on there is something to resume
            directory = RunDirectory.create(
                Path(config.out),
                config.name or _default_name(plan),
                context.manifest(findings),
                numbered=config.name is None,
            )
            stack.enter_context(directory.locked())
        events.recorder = Recorder(directory)
        _emit_start(state, directory, None if resume is None else _resume_message(state, checkpoint), resolved)
        result = directory.finish(_run_from(state, directory, checkpoint))
        events.emit(RunEnded(result))
        if not keep_checkpoints:
            directory.drop_checkpoints()
        return result


def _restore(context: RunContext, directory: RunDirectory) -> tuple[TrainingState, Checkpoint]:
    """The state of the newest usable checkpoint, or that before the first step if the run has written none."""
    use_threads(context.plan.config.threads)
    context.require_same(directory.manifest)
    found = directory.newest_usable(partial(TrainingState.from_checkpoint, context))
    if found is None:
        _, inputs, network, _ = build_resolved(context.plan, context.run_data)
        found = TrainingState.new(context, inputs, network), _START
    state, checkpoint = found
    if checkpoint.damage:
        _log.warning("%s; the run continues from the state before it", checkpoint.damage)
    for remark in directory.remove_stale(context.plan.config.keep_models):
        _log.warning("%s", remark)
    warn_if_disk_low(state, directory.path)
    return state, checkpoint


def _run_from(state: TrainingState, directory: RunDirectory, checkpoint: Checkpoint) -> dict[str, Any]:
    """Run from a checkpoint to the end, with a checkpoint after each mega-batch; return the content of the result."""
    context, rows = state.context, list(checkpoint.rows)
    checkpointer = Checkpointer(state, directory, rows, time.perf_counter() - checkpoint.seconds)
    unfinished = checkpoint.seconds - sum(row.seconds for row in rows)
    with checkpointer.save_on_stop():
        for row in _train_over_stream(state, directory, checkpointer, unfinished):
            rows.append(row)
            context.events.emit(MegaBatchEnded(row))
            if row.index < context.plan.config.mega_batches:
                state.next_mega_batch()
                context.stop.check()
                checkpointer.save()
    return _build_result(state, directory, rows, time.perf_counter() - checkpointer.start_time)


def _train_over_stream(
    state: TrainingState, directory: RunDirectory, checkpointer: Checkpointer, unfinished: float
) -> Iterator[MegaBatchResult]:
    """Algorithm 1: for each mega-batch, train, evaluate and, unless it is the last, unlearn.

    ``unfinished`` are the seconds that an interrupted run spent on the mega-batch it was in.
    """
    last = len(state.stream)
    for index in range(state.mega_batch, last + 1):
        start_time, unfinished = time.perf_counter() - unfinished, 0.0
        revealed = state.stream.reveal(index)  # M_i, with what replay kept of the past
        with closing(train_stepwise(state, revealed)) as steps:
            for _ in steps:  # after each step and each epoch
                checkpointer.save_if_due()
        row = evaluate(state, revealed)
        directory.save_model(index, state.network.state_dict(), state.context.plan.config.keep_models)
        report, masks = unlearn_after(state, revealed) if index < last else (None, None)
        if masks:
            directory.save_masks(index, masks.state())
        state.stream.retain(index)
        yield dataclasses.replace(
            row,
            unlearn=report,
            forward_passes=state.passes.forward,
            backward_passes=state.passes.backward,
            seconds=time.perf_counter() - start_time,
        )


def _emit_start(
    state: TrainingState, directory: RunDirectory, resume_message: str | None, resolved: Sequence[OptionResolved]
) -> None:
    context, config = state.context, state.context.plan.config
    context.events.emit(
        RunStarted(
            run=directory.path.name,
            directory=str(directory.path),
            method=context.plan.method,
            config=config.model_dump(mode="json"),
            parameters=state.parameters,
            mega_batches=config.mega_batches,
            epochs=config.epochs if config.samples is None else None,
            samples=context.samples,
            done=state.mega_batch - 1,
            done_epochs=state.epochs_done,
            done_samples=state.samples_done,
            preset=config.preset,
            overrides=context.plan.overrides,
            resume_message=resume_message,
            augment=context.run_data.augment,
        )
    )
    for event in resolved:
        context.events.emit(event)


def _resume_message(state: TrainingState, checkpoint: Checkpoint) -> str:
    if not checkpoint.state:
        return "no checkpoint was written: starting from the beginning"
    if not (state.epochs_done or state.steps_done):
        return f"resuming with mega-batch {state.mega_batch}"
    steps = f" and {state.steps_done} steps" if state.steps_done else ""
    return f"resuming mega-batch {state.mega_batch} after epoch {state.epochs_done}{steps}"


def _build_result(
    state: TrainingState, directory: RunDirectory, rows: Sequence[MegaBatchResult], seconds: float
) -> dict[str, Any]:
    """The content of ``result.json``."""
    context, plan = state.context, state.context.plan
    return {
        "schema": SCHEMA,
        "run": directory.path.name,
        "directory": str(directory.path),
        "method": plan.method,
        "preset": plan.config.preset,
        "overrides": dict(plan.overrides),
        "config": plan.config.model_dump(mode="json"),
        "augment": context.run_data.augment,
        "versions": versions(plan),
        "parameters": state.parameters,
        "noisy_labels": context.run_data.noisy_labels,
        "init_sha256": context.init_sha256,
        "mega_batches": [dataclasses.asdict(row) for row in rows],
        **_compute_metrics(plan.metrics, rows),
        **{
            total: sum(getattr(row, total) for row in rows)
            for total in ("samples_seen", "skipped_steps", "forward_passes", "backward_passes")
        },
        "seconds": seconds,
        "peak_memory_bytes": context.peak_memory(),
        "status": "completed",
    }


def _compute_metrics(
    metrics: Mapping[str, contracts.Metric], rows: Sequence[MegaBatchResult]
) -> dict[str, float | None]:
    """Compute each metric, by its name with underscores. One that fails is null with a warning."""
    numbers: dict[str, float | None] = {}
    for name, metric in metrics.items():
        try:
            with settings_restored(f"the metric {name}"):
                computed = metric.compute(rows)
            number = None if computed is None else contracts.as_number(computed)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{number} is neither a finite number nor None")
        except Exception as error:  # noqa: BLE001 - code of a plugin may raise anything
            _log.warning("the metric %s is left empty: %s", name, f"{type(error).__name__}: {error}".partition("\n")[0])
            number = None
        numbers[name.replace("-", "_")] = number
    return numbers


def _default_name(plan: Plan) -> str:
    method = "+".join([plan.method, *map(name_of, plan.config.interventions)])
    what = f"{method}-{plan.config.dataset.partition(':')[0]}".replace("/", "-")  # distribution/name
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]  # noqa: DTZ005 - for people, in their own time
    return f"{stamp}-{what[:100]}-s{plan.config.seed}"
