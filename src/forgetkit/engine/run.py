"""Anytime learning at macroscale: learn, unlearn, relearn over a stream of mega-batches.

Algorithm 1 of Ramkumar et al., 2023, is :func:`_train_over_stream`. What surrounds a run and does not change
is in :mod:`forgetkit.engine.context`, what changes in :mod:`forgetkit.engine.state`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from forgetkit import contracts
from forgetkit.config import Plan, name_of
from forgetkit.contracts import Checkpointed, MegaBatchEnded, MegaBatchResult, RunEnded, RunStarted
from forgetkit.engine.context import EventDispatcher, RunContext, compute_settings, use_threads, versions
from forgetkit.engine.disk_usage import warn_if_disk_low
from forgetkit.engine.state import TrainingState
from forgetkit.errors import ComponentError, DivergedError
from forgetkit.storage import SCHEMA, Checkpoint, Recorder, RunDirectory
from forgetkit.system.interrupts import GracefulStop, StopRequest
from forgetkit.system.memory import translate_oom
from forgetkit.system.torch_settings import settings_restored

SaveCheckpoint = Callable[[], None]
_log = logging.getLogger("forgetkit")


def run_plan(
    plan: Plan,
    *,
    observers: Sequence[contracts.Observer] = (),
    cache: Path,
    resume: RunDirectory | None = None,
    halt: StopRequest | None = None,
    remarks: bool = True,
) -> dict[str, Any]:
    """Carry a plan out, or on from where it stopped; return what ``result.json`` holds.

    Where ``halt`` asks for it the run stops, with a state to go on from. With ``remarks``, a run that begins
    warns of what the source of its data remarks, and of what the audit of the data finds.
    Nothing is written before the data is found sound, and learning and forgetting have been tried on a little of it.
    """
    bus = EventDispatcher([*plan.observers, *observers])
    machine = compute_settings(plan.config.threads, plan.config.device, deterministic=plan.config.deterministic)
    with machine, translate_oom(), ExitStack() as held:
        if resume is not None:
            held.enter_context(resume.locked())
            resume.require_unfinished()  # another process may have come to its end meanwhile
        context = RunContext.prepare(plan, bus, cache, halt)
        if resume is None:
            if remarks:
                context.warn_of_remarks()
            context.note(context.audit(), warn=remarks)
            learner = TrainingState.new(context)
            context = learner.context
            context.note(learner.smoke_test(), about=f"the model {contracts.component_name(plan.model)}")
            out, name = Path(plan.config.out), plan.config.name
            warn_if_disk_low(learner, out)
            held.enter_context(context.halt.deferred())  # from here on there is something to go on with
            directory = RunDirectory.create(out, name or _default_name(plan), context.manifest(), numbered=name is None)
            held.enter_context(directory.locked())
            point = Checkpoint({}, (), 0.0)
        else:
            directory = resume
            context = context.with_resolved(directory.manifest.get("config", {}))
            use_threads(context.plan.config.threads)
            context.require_same(directory.manifest)
            found = directory.newest_usable(partial(TrainingState.from_state, context))
            learner, point = found or (TrainingState.new(context), Checkpoint({}, (), 0.0))
            if point.damage:
                _log.warning("%s; the run goes on from the state before it", point.damage)
            for remark in directory.remove_stale(plan.config.keep_models):
                _log.warning("%s", remark)
            warn_if_disk_low(learner, directory.path)
        bus.recorder = Recorder(directory)
        return _run_from(context, learner, directory, point, resumed=resume is not None)


def _run_from(
    context: RunContext, learner: TrainingState, directory: RunDirectory, point: Checkpoint, *, resumed: bool
) -> dict[str, Any]:
    """From where the training stands to the result, with a state to resume from after each mega-batch."""
    config, bus = context.plan.config, context.bus
    began = time.perf_counter() - point.seconds
    rows = list(point.rows)

    def checkpoint() -> None:
        seconds = time.perf_counter() - began
        file = directory.save_checkpoint(Checkpoint(learner.state(), tuple(rows), seconds))
        bus.emit(Checkpointed(learner.mega_batch, learner.epochs_done, file.name, learner.steps_done))

    bus.emit(
        RunStarted(
            run=directory.path.name,
            directory=str(directory.path),
            method=context.plan.method,
            config=config.model_dump(mode="json"),
            parameters=learner.parameters,
            mega_batches=config.mega_batches,
            epochs=config.epochs if config.samples is None else None,
            samples=tuple(context.epochs(index).samples for index in range(1, config.mega_batches + 1)),
            done=learner.mega_batch - 1,
            done_epochs=learner.epochs_done,
            done_samples=learner.samples_done,
            preset=config.preset,
            overrides=context.plan.overrides,
            resume_message=_resume_message(learner, point) if resumed else None,
            augment=context.augment,
        )
    )
    for event in learner.resolved_options:
        bus.emit(event)
    unfinished = point.seconds - sum(row.seconds for row in rows)
    with _checkpoint_on_interrupt(context.halt, checkpoint, directory):
        for row in _train_over_stream(learner, directory, checkpoint, unfinished):
            rows.append(row)
            bus.emit(MegaBatchEnded(row))
            if row.index < config.mega_batches:
                learner.next_mega_batch()
                context.halt.check()
                checkpoint()
    result = _build_result(context, directory, learner, rows, time.perf_counter() - began)
    result = directory.finish(result)
    bus.emit(RunEnded(result))
    return result


def _resume_message(learner: TrainingState, point: Checkpoint) -> str:
    if not point.state:
        return "no state was written, so it begins from its start"
    if not (learner.epochs_done or learner.steps_done):
        return f"going on with mega-batch {learner.mega_batch}"
    steps = f" and {learner.steps_done} steps" if learner.steps_done else ""
    return f"going on in mega-batch {learner.mega_batch}, after epoch {learner.epochs_done}{steps}"


@contextmanager
def _checkpoint_on_interrupt(halt: StopRequest, checkpoint: SaveCheckpoint, directory: RunDirectory) -> Iterator[None]:
    """Where it is asked to stop, a state is left; where numbers went wrong, a note on the error names the last one."""
    with halt.deferred():
        try:
            try:
                yield
            except GracefulStop:
                checkpoint()
                raise
        except KeyboardInterrupt as stopped:
            stopped.add_note(f"the run in {directory.path} can be gone on with")
            raise
        except (DivergedError, ComponentError) as error:
            good = directory.newest_state()
            error.add_note("no state was written before" if good is None else f"the last good state is {good}")
            raise


def _train_over_stream(
    learner: TrainingState, directory: RunDirectory, checkpoint: SaveCheckpoint, spent: float
) -> Iterator[MegaBatchResult]:
    """Algorithm 1: for each mega-batch, learn, evaluate and, while more is to come, forget."""
    last = len(learner.stream)
    for index in range(learner.mega_batch, last + 1):
        began = time.perf_counter() - spent
        spent = 0.0  # seconds that an interrupted run had given to its unfinished mega-batch
        revealed = learner.stream.reveal(index)  # M_i, with what replay kept of the past
        learner.learn(revealed, checkpoint)
        row = learner.evaluate(revealed)
        directory.save_model(index, learner.model.state_dict(), learner.context.plan.config.keep_models)
        report, masks = learner.unlearn(revealed) if index < last else (None, None)
        if masks:
            directory.save_masks(index, masks.state())
        learner.stream.retain(index)
        yield dataclasses.replace(
            row,
            unlearn=report,
            forward_passes=learner.passes.forward,
            backward_passes=learner.passes.backward,
            seconds=time.perf_counter() - began,
        )


def _build_result(
    context: RunContext,
    directory: RunDirectory,
    learner: TrainingState,
    rows: Sequence[MegaBatchResult],
    seconds: float,
) -> dict[str, Any]:
    """The content of ``result.json``."""
    return {
        "schema": SCHEMA,
        "run": directory.path.name,
        "directory": str(directory.path),
        "method": context.plan.method,
        "preset": context.plan.config.preset,
        "overrides": dict(context.plan.overrides),
        "config": context.plan.config.model_dump(mode="json"),
        "augment": context.augment,
        "versions": versions(context.plan),
        "parameters": learner.parameters,
        "noisy_labels": context.noisy_labels,
        "init_sha256": context.init_sha256,
        "mega_batches": [dataclasses.asdict(row) for row in rows],
        **_compute_metrics(context.plan.metrics, rows),
        "samples_seen": sum(row.samples_seen for row in rows),
        "skipped_steps": sum(row.skipped_steps for row in rows),
        "forward_passes": sum(row.forward_passes for row in rows),
        "backward_passes": sum(row.backward_passes for row in rows),
        "seconds": seconds,
        "peak_memory_bytes": context.peak_memory(),
        "status": "completed",
    }


def _compute_metrics(
    metrics: Mapping[str, contracts.Metric], rows: Sequence[MegaBatchResult]
) -> dict[str, float | None]:
    """The number of each metric, by its name with underscores. One that fails is null: the run is not lost for it."""
    numbers: dict[str, float | None] = {}
    for name, metric in metrics.items():
        try:
            with settings_restored(f"the metric {name}"):
                computed = metric.compute(rows)
            number = None if computed is None else contracts.as_number(computed)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{number} is neither a finite number nor None")
        except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
            _log.warning("the metric %s is left empty: %s", name, f"{type(error).__name__}: {error}".partition("\n")[0])
            number = None
        numbers[name.replace("-", "_")] = number
    return numbers


def _default_name(plan: Plan) -> str:
    method = "+".join([plan.method, *map(name_of, plan.config.interventions)])
    what = f"{method}-{plan.config.dataset.partition(':')[0]}".replace("/", "-")  # distribution/name
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]  # noqa: DTZ005 - for people, in their own time
    return f"{stamp}-{what[:100]}-s{plan.config.seed}"
