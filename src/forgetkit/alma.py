"""Anytime learning at macroscale: learn, unlearn, relearn over a stream of mega-batches.

Algorithm 1 of Ramkumar et al., 2023, is :func:`_anytime`. What surrounds a run and does not change
is in :mod:`forgetkit.session`, what changes in :mod:`forgetkit.learner`.
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
from forgetkit.contracts import Checkpointed, MegaBatchEnded, MegaBatchRow, RunEnded, RunStarted
from forgetkit.errors import ComponentError, DivergedError
from forgetkit.footprint import warn_where_short
from forgetkit.learner import Learner
from forgetkit.record import SCHEMA, Recorder, ResumePoint, RunDirectory
from forgetkit.session import Bus, Session, computing, use_threads, versions
from forgetkit.system.halting import Halt, Stopped
from forgetkit.system.memory import short_of_memory_is_said
from forgetkit.system.torch_settings import settings_restored

Checkpoint = Callable[[], None]
_log = logging.getLogger("forgetkit")


def run(
    plan: Plan,
    *,
    observers: Sequence[contracts.Observer] = (),
    cache: Path,
    resume: RunDirectory | None = None,
    halt: Halt | None = None,
    remarks: bool = True,
) -> dict[str, Any]:
    """Carry a plan out, or on from where it stopped; return what ``result.json`` holds.

    Where ``halt`` asks for it the run stops, with a state to go on from. With ``remarks``, a run that begins
    warns of what the source of its data remarks, and of what the audit of the data finds.
    Nothing is written before the data is found sound, and learning and forgetting have been tried on a little of it.
    """
    bus = Bus([*plan.observers, *observers])
    machine = computing(plan.config.threads, plan.config.device, deterministic=plan.config.deterministic)
    with machine, short_of_memory_is_said(), ExitStack() as held:
        if resume is not None:
            held.enter_context(resume.held())
            resume.require_unfinished()  # another process may have come to its end meanwhile
        session = Session.prepare(plan, bus, cache, halt)
        if resume is None:
            if remarks:
                session.warn_of_remarks()
            session.note(session.audit(), warn=remarks)
            learner = Learner.new(session)
            session = learner.session
            session.note(learner.try_out(), about=f"the model {contracts.component_name(plan.model)}")
            out, name = Path(plan.config.out), plan.config.name
            warn_where_short(learner, out)
            held.enter_context(session.halt.heeded())  # from here on there is something to go on with
            directory = RunDirectory.create(out, name or _name(plan), session.manifest(), numbered=name is None)
            held.enter_context(directory.held())
            point = ResumePoint({}, (), 0.0)
        else:
            directory = resume
            session = session.settled(directory.manifest.get("config", {}))
            use_threads(session.plan.config.threads)
            session.require_same(directory.manifest)
            found = directory.newest_usable(partial(Learner.restored, session))
            learner, point = found or (Learner.new(session), ResumePoint({}, (), 0.0))
            if point.damage:
                _log.warning("%s; the run goes on from the state before it", point.damage)
            for remark in directory.tidy(plan.config.keep_models):
                _log.warning("%s", remark)
            warn_where_short(learner, directory.path)
        bus.recorder = Recorder(directory)
        return _carry_on(session, learner, directory, point, resumed=resume is not None)


def _carry_on(
    session: Session, learner: Learner, directory: RunDirectory, point: ResumePoint, *, resumed: bool
) -> dict[str, Any]:
    """From where the learner stands to the result, with a state to resume from after each mega-batch."""
    config, bus = session.plan.config, session.bus
    began = time.perf_counter() - point.seconds
    rows = list(point.rows)

    def checkpoint() -> None:
        seconds = time.perf_counter() - began
        file = directory.save_resume_point(ResumePoint(learner.state(), tuple(rows), seconds))
        bus.emit(Checkpointed(learner.mega_batch, learner.epochs_done, file.name, learner.steps_done))

    bus.emit(
        RunStarted(
            run=directory.path.name,
            directory=str(directory.path),
            method=session.plan.method,
            config=config.model_dump(mode="json"),
            parameters=learner.parameters,
            mega_batches=config.mega_batches,
            epochs=config.epochs if config.samples is None else None,
            samples=tuple(session.epochs(index).samples for index in range(1, config.mega_batches + 1)),
            done=learner.mega_batch - 1,
            done_epochs=learner.epochs_done,
            done_samples=learner.samples_done,
            preset=config.preset,
            departures=session.plan.departures,
            going_on=_standing(learner, point) if resumed else None,
            augment=session.augment,
        )
    )
    for event in learner.settled:
        bus.emit(event)
    unfinished = point.seconds - sum(row.seconds for row in rows)
    with _losing_nothing(session.halt, checkpoint, directory):
        for row in _anytime(learner, directory, checkpoint, unfinished):
            rows.append(row)
            bus.emit(MegaBatchEnded(row))
            if row.index < config.mega_batches:
                learner.advance()
                session.halt.check()
                checkpoint()
    result = _result(session, directory, learner, rows, time.perf_counter() - began)
    result = directory.finish(result)
    bus.emit(RunEnded(result))
    return result


def _standing(learner: Learner, point: ResumePoint) -> str:
    if not point.state:
        return "no state was written, so it begins from its start"
    if not (learner.epochs_done or learner.steps_done):
        return f"going on with mega-batch {learner.mega_batch}"
    steps = f" and {learner.steps_done} steps" if learner.steps_done else ""
    return f"going on in mega-batch {learner.mega_batch}, after epoch {learner.epochs_done}{steps}"


@contextmanager
def _losing_nothing(halt: Halt, checkpoint: Checkpoint, directory: RunDirectory) -> Iterator[None]:
    """Where it is asked to stop, a state is left; where numbers went wrong, a note on the error names the last one."""
    with halt.heeded():
        try:
            try:
                yield
            except Stopped:
                checkpoint()
                raise
        except KeyboardInterrupt as stopped:
            stopped.add_note(f"the run in {directory.path} can be gone on with")
            raise
        except (DivergedError, ComponentError) as error:
            good = directory.newest_state()
            error.add_note("no state was written before" if good is None else f"the last good state is {good}")
            raise


def _anytime(learner: Learner, directory: RunDirectory, checkpoint: Checkpoint, spent: float) -> Iterator[MegaBatchRow]:
    """Algorithm 1: for each mega-batch, learn, evaluate and, while more is to come, forget."""
    last = len(learner.stream)
    for index in range(learner.mega_batch, last + 1):
        began = time.perf_counter() - spent
        spent = 0.0  # seconds that an interrupted run had given to its unfinished mega-batch
        revealed = learner.stream.reveal(index)  # M_i, with what replay kept of the past
        learner.learn(revealed, checkpoint)
        row = learner.evaluate(revealed)
        directory.save_model(index, learner.model.state_dict(), learner.session.plan.config.keep_models)
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


def _result(
    session: Session, directory: RunDirectory, learner: Learner, rows: Sequence[MegaBatchRow], seconds: float
) -> dict[str, Any]:
    """The content of ``result.json``."""
    return {
        "schema": SCHEMA,
        "run": directory.path.name,
        "directory": str(directory.path),
        "method": session.plan.method,
        "preset": session.plan.config.preset,
        "departures": dict(session.plan.departures),
        "config": session.plan.config.model_dump(mode="json"),
        "augment": session.augment,
        "versions": versions(session.plan),
        "parameters": learner.parameters,
        "noisy_labels": session.noisy_labels,
        "init_sha256": session.init_sha256,
        "mega_batches": [dataclasses.asdict(row) for row in rows],
        **_measured(session.plan.metrics, rows),
        "samples_seen": sum(row.samples_seen for row in rows),
        "skipped_steps": sum(row.skipped_steps for row in rows),
        "forward_passes": sum(row.forward_passes for row in rows),
        "backward_passes": sum(row.backward_passes for row in rows),
        "seconds": seconds,
        "peak_memory_bytes": session.peak_memory(),
        "status": "completed",
    }


def _measured(metrics: Mapping[str, contracts.Metric], rows: Sequence[MegaBatchRow]) -> dict[str, float | None]:
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


def _name(plan: Plan) -> str:
    method = "+".join([plan.method, *map(name_of, plan.config.interventions)])
    what = f"{method}-{plan.config.dataset.partition(':')[0]}".replace("/", "-")  # distribution/name
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]  # noqa: DTZ005 - for people, in their own time
    return f"{stamp}-{what[:100]}-s{plan.config.seed}"
