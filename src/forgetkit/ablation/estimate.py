"""What the rest of an ablation will take, from a timed sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forgetkit import contracts
from forgetkit.config import Plan
from forgetkit.engine import dry_run
from forgetkit.engine.context import compute_settings

_DECIDES = (
    *("dataset", "model", "replay", "interventions", "mega_batches", "val_fraction", "shots", "epochs", "samples"),
    *("batch_size", "augment", "optimizer", "precision", "memory_format", "deterministic", "carry", "patience"),
    *("device", "threads"),
)
"""Options that decide what training costs. A criterion or a seed changes little."""


@dataclass(frozen=True)
class CostEstimate:
    """``seconds`` with ``jobs`` cells at a time, ``memory_bytes`` of them together, ``timed`` cells were tried.

    ``memory_bytes`` is None where the system does not tell. ``augment`` is what ``auto`` comes to, by data set.
    """

    seconds: float
    memory_bytes: int | None
    timed: int
    augment: Mapping[str, str]


def estimate_ablation(
    plans: Iterable[Plan], jobs: int, threads: int, observers: Sequence[contracts.Observer], cache: Path
) -> CostEstimate:
    """One of each kind of plan is tried for a few seconds, on ``threads`` threads, and counts for all of its kind."""
    kinds: dict[str, list[Plan]] = {}
    for plan in plans:
        kinds.setdefault(str([getattr(plan.config, option) for option in _DECIDES]), []).append(plan)
    seconds = 0.0
    peaks: list[int | None] = []
    augment: dict[str, str] = {}
    said: set[str] = set()
    for alike in kinds.values():
        config, own = alike[0].config, alike[0].config.threads
        plan = alike[0] if own == "auto" else alike[0].with_resolved(threads=min(threads, own))
        with compute_settings(threads):  # what torch would choose in a worker
            tried = dry_run.estimate_cost(plan, observers, cache, remarks=config.dataset not in said)
        said.add(config.dataset)
        if config.augment == "auto":
            augment[config.dataset] = tried["augment"]
        seconds += len(alike) * tried["estimated_seconds"]
        peaks.append(tried["estimated_memory_bytes"])
    known = [peak for peak in peaks if peak is not None]
    together = min(jobs, sum(map(len, kinds.values())))
    memory = None if len(known) < len(peaks) else max(known, default=0) * together
    return CostEstimate(seconds / jobs, memory, len(kinds), augment)
