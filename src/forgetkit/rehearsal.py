"""What a run would be and cost, from a timed sample; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forgetkit import contracts, learn
from forgetkit.config import Plan
from forgetkit.footprint import disk_bytes
from forgetkit.learner import Learner
from forgetkit.session import Bus, Session, computing
from forgetkit.stream import Pool, Revealed
from forgetkit.stream.batches import fits
from forgetkit.system.memory import short_of_memory_is_said

_SECONDS = 3.0
_LR = 1e-6  # small, so that the same few samples again and again make nothing diverge


def rehearse(
    plan: Plan, observers: Sequence[contracts.Observer], cache: Path, *, remarks: bool = True
) -> dict[str, Any]:
    """Load the data, build the network, train and evaluate on a little of the first mega-batch.

    Training is timed for about three seconds, at least two steps, evaluation and one forgetting once.
    Time is what the run takes at that pace; memory is the most that this took and what the largest pool of samples
    will add, None where the system does not say. With ``remarks``, what the source of the data remarks and what its
    audit finds are logged.
    """
    bus = Bus([*plan.observers, *observers])
    machine = computing(plan.config.threads, plan.config.device, deterministic=plan.config.deterministic)
    with machine, short_of_memory_is_said():
        session = Session.prepare(plan, bus, cache)
        if remarks:
            session.warn_of_remarks()
        session.note(session.audit(), warn=remarks)
        learner = Learner.new(session)
        session, config = learner.session, learner.session.plan.config
        for event in learner.settled:
            bus.emit(event)
        session.note(learner.try_out(), about=f"the model {contracts.component_name(session.plan.model)}")
        revealed = learner.stream.reveal(1)
        per_sample, steps = _training_pace(learner, revealed)
        evaluation = _evaluation_pace(learner, revealed)
        forgetting = _forgetting_seconds(learner, revealed) if config.mega_batches > 1 else 0.0
        disk = disk_bytes(learner)
    epochs = [session.epochs(index) for index in range(1, config.mega_batches + 1)]
    samples = sum(sizes.samples for sizes in epochs)
    looks = [1 + (sizes.count if learner.best.watches else 0) for sizes in epochs]
    validated = config.val_fraction * sum(size * look for size, look in zip(session.sizes, looks, strict=True))
    judged = sum(session.sizes) + validated + len(session.data.test) * config.mega_batches
    memory, largest = session.peak_memory(), max(session.sizes) * session.data.train.inputs[0].nbytes
    if not fits(largest, session.device):  # it is read batch by batch
        largest = 0
    return {
        "dry_run": True,
        "method": plan.method,
        "preset": config.preset,
        "departures": dict(plan.departures),
        "config": config.model_dump(mode="json"),
        "augment": session.augment,
        "audit": list(session.findings),
        "parameters": learner.parameters,
        "train_samples": session.sizes,
        "samples_to_be_seen": samples,
        "timed_steps": steps,
        "estimated_seconds": samples * per_sample + judged * evaluation + (config.mega_batches - 1) * forgetting,
        "estimated_memory_bytes": None if memory is None else memory + largest,
        "estimated_disk_bytes": disk,
    }


def _training_pace(learner: Learner, revealed: Revealed) -> tuple[float, int]:
    """Seconds per training sample, and over how many steps they were measured."""
    config, session = learner.session.plan.config, learner.session
    few = revealed.train[: 2 * config.batch_size]
    pool = Pool.of(revealed.read("train", few), session.device)
    learner.trainer.begin(pool, 1, session.seeds)
    learner.trainer.epoch(pool, 1, 1, _LR, session.seeds)  # the first steps are slower: not timed
    began, seen, steps = time.perf_counter(), 0, 0
    while not seen or time.perf_counter() - began < _SECONDS:
        learner.trainer.epoch(pool, 1, 1, _LR, session.seeds)
        seen += len(pool)
        steps += -(-len(pool) // config.batch_size)
    return (time.perf_counter() - began) / seen, steps


def _evaluation_pace(learner: Learner, revealed: Revealed) -> float:
    few = revealed.train[:512]
    pool = Pool.of(revealed.read("train", few), learner.session.device)
    began = time.perf_counter()
    learn.accuracy(learner.model, pool, learner.session.seeds, bf16=learner.trainer.bf16)
    return (time.perf_counter() - began) / len(pool)


def _forgetting_seconds(learner: Learner, revealed: Revealed) -> float:
    ids = learner.stream.offered(learner.session.plan.config.score_on, revealed.index)
    pool = Pool.fitting(revealed.excerpt("train", ids), learner.session.device)
    began = time.perf_counter()
    learner.forget(pool, learner.session.seeds.within("rehearsal"))
    return time.perf_counter() - began
