"""The cost of the open cells of an ablation, from a timed sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forgetkit.ablation.plan import AblationPlan
from forgetkit.config import Plan, machine
from forgetkit.contracts import Executor
from forgetkit.engine import dry_run
from forgetkit.engine.context import compute_settings
from forgetkit.results.cell_store import CellStatus

_DECIDES = (
    *("dataset", "model", "replay", "interventions", "mega_batches", "val_fraction", "shots", "epochs", "samples"),
    *("batch_size", "augment", "optimizer", "precision", "memory_format", "deterministic", "carry", "patience"),
    *("device", "threads"),
)
"""Options that decide the cost of training. A criterion or a seed changes little."""


@dataclass(frozen=True)
class CostEstimate:
    """What the open cells of a grid take.

    ``seconds`` with ``jobs`` cells at a time, ``memory_bytes`` of them together (None if the system does not tell).
    ``timed`` cells were tried. ``augment`` is what ``auto`` resolves to, by data set.
    """

    seconds: float
    memory_bytes: int | None
    timed: int
    augment: Mapping[str, str]
    jobs: int


def estimate_ablation(ablation: AblationPlan, statuses: Mapping[str, CellStatus], executor: Executor) -> CostEstimate:
    """Try one cell of each kind for a few seconds, as a worker of ``executor`` would run it; write nothing."""
    jobs = getattr(executor, "jobs", 1)
    threads = getattr(executor, "threads", None) or max(1, machine.default_threads() // jobs)
    kinds: dict[str, list[Plan]] = {}
    for position in ablation.to_run(statuses):
        plan = ablation.plans[position]
        kinds.setdefault(str([getattr(plan.config, option) for option in _DECIDES]), []).append(plan)
    seconds = 0.0
    peaks: list[int | None] = []
    augment: dict[str, str] = {}
    audited: set[str] = set()
    for alike in kinds.values():
        config, own = alike[0].config, alike[0].config.threads
        plan = alike[0] if own == "auto" else alike[0].with_resolved(threads=min(threads, own))
        with compute_settings(threads):  # what torch would choose in a worker
            tried = dry_run.estimate_cost(plan, (), machine.cache_folder(), remarks=config.dataset not in audited)
        audited.add(config.dataset)
        if config.augment == "auto":
            augment[config.dataset] = tried["augment"]
        seconds += len(alike) * tried["estimated_seconds"]
        peaks.append(tried["estimated_memory_bytes"])
    known = [peak for peak in peaks if peak is not None]
    together = min(jobs, sum(map(len, kinds.values())))
    memory = None if len(known) < len(peaks) else max(known, default=0) * together
    return CostEstimate(seconds / jobs, memory, len(kinds), augment, jobs)


def dry_run_content(ablation: AblationPlan, statuses: Mapping[str, CellStatus], cost: CostEstimate) -> dict[str, Any]:
    """Return what ``--dry-run --json`` prints."""
    return {
        "dry_run": True,
        "title": ablation.grid.title,
        "directory": str(ablation.store.path),
        "cells": [
            {"arm": dict(cell.arm), "seed": cell.seed, "digest": digest, "status": statuses[digest].status}
            for cell, digest in zip(ablation.cells, ablation.digests, strict=True)
        ],
        "to_run": len(ablation.to_run(statuses)),
        "augment": dict(cost.augment),
        "estimated_seconds": cost.seconds,
        "estimated_memory_bytes": cost.memory_bytes,
    }
