"""Outcomes of an ablation without any training, the same every time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from forgetkit.results.outcome import Outcome, Outcomes

LAYERS = {
    "features.0.weight": 288,
    "features.1.weight": 32,
    "features.1.bias": 32,
    "features.4.weight": 18432,
    "features.5.weight": 64,
    "features.5.bias": 64,
    "features.8.weight": 36864,
    "features.9.weight": 64,
    "features.9.bias": 64,
    "head.weight": 640,
    "head.bias": 10,
}

UNLEARN = {
    "scored": 56554,
    "reset": 11310,
    "changed": 11310,
    "tied": 1,
    "threshold": 0.01,
    "optimizer_cleared": 0,
    "seconds": 0.1,
    "forward_passes": 160,
    "backward_passes": 160,
    "buffers": [],
    "left_out": {},
    "remarks": [],
    "repeated": None,
}


def result(
    seed: int, arm: Mapping[str, str], *, batches: int = 8, resets: bool = True, **changed: Any
) -> dict[str, Any]:
    """The content of a ``result.json``; ``changed`` replaces entries."""
    rng = random.Random(f"{sorted(arm.items())}/{seed}")
    level = random.Random(str(sorted(arm.items()))).uniform(0.0, 0.06)
    rows: list[dict[str, Any]] = []
    for index in range(1, batches + 1):
        wrong = min(999, max(1, round(1000 * (0.55 / index + level + rng.uniform(0, 0.02)))))
        layers = {name: {"size": size, "reset": int(size * rng.uniform(0.02, 0.4))} for name, size in LAYERS.items()}
        rows.append(
            {
                "index": index,
                "train_samples": 160 * index,
                "val_samples": 18 * index,
                "epochs": 10,
                "samples_seen": 1600 * index // (1 if resets else 3),
                "train_accuracy": 1.0,
                "val_accuracy": 0.99,
                "test_accuracy": 1 - wrong / 1000,
                "test_errors": wrong,
                "test_samples": 1000,
                "generalization_gap": 0.01,
                "forward_passes": 1600 * index,
                "backward_passes": 1600 * index,
                "seconds": 0.5,
                "unlearn": {**UNLEARN, "layers": layers} if resets and index < batches else None,
            }
        )
    rows[0]["samples_seen"] += 40 * seed
    config = {
        "preset": "clean",
        "method": "lure",
        **arm,
        "mega_batches": batches,
        "epochs": 10,
        "milestones": [4, 8],
        "shots": None,
        "seed": seed,
        "out": "/secret/place",
        "name": "0123456789abcdef",
    }
    return {
        "schema": 2,
        "run": f"run-{seed}",
        "directory": "/secret/place/run",
        "method": "lure",
        "preset": "clean",
        "overrides": {
            "epochs": {"value": 10, "preset": 50},
            **{k: {"value": v, "preset": None} for k, v in arm.items()},
        },
        "config": config,
        "versions": {
            "forgetkit": "0.1.0",
            "torch": "2.7.0",
            "numpy": "2.1.0",
            "python": "3.11.7",
            "plugins": {"forgetkit-saliency": "0.1.0"},
        },
        "parameters": 56554,
        "mega_batches": rows,
        "test_accuracy": rows[-1]["test_accuracy"],
        "cer": sum(row["test_errors"] for row in rows),
        "mean_anytime_error": sum(row["test_errors"] for row in rows) / (1000 * batches),
        "generalization_gap": 0.01,
        **{key: sum(row[key] for row in rows) for key in ("samples_seen", "forward_passes", "backward_passes")},
        "skipped_steps": 0,
        "noisy_labels": 0,
        "init_sha256": None,
        "augment": "none",
        "peak_memory_bytes": None,
        "seconds": 4.0,
        "status": "completed",
        **changed,
    }


def outcomes(
    axes: Mapping[str, Sequence[str]],
    seeds: int = 3,
    *,
    title: str = "Which criterion, which reset?",
    baseline: Mapping[str, str] | None = None,
    lost: Mapping[int, tuple[str, str]] | None = None,
) -> Outcomes:
    """Every combination at every seed; ``lost`` maps a cell's place to its status and its reason."""
    cells: list[Outcome] = []
    for values in itertools.product(*axes.values()):
        arm = dict(zip(axes, values, strict=True))
        for seed in range(seeds):
            place = len(cells)
            status, reason = (lost or {}).get(place, ("completed", ""))
            found = result(seed, arm, resets="none" not in values) if status == "completed" else None
            cells.append(Outcome(arm, seed, f"{place:064x}", status, found, reason))  # type: ignore[arg-type]
    return Outcomes(title, tuple(axes), tuple(cells), baseline)


def missing(axes: Mapping[str, Sequence[str]]) -> tuple[Outcome, ...]:
    """A cell per combination, none of them run."""
    arms = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return tuple(Outcome(arm, 0, "", "missing", None, "not run yet") for arm in arms)


THREE = {"importance": ("snip", "fisher", "random")}
MANY = {
    "importance": ("snip", "fisher", "magnitude", "random"),
    "reinit": ("masked:fraction=0.2", "shrink-perturb", "none"),
    "replay": ("full", "none", "buffer:size=186"),
}
LOST = {
    4: ("failed", "loss.backward() ran out of memory"),
    7: ("diverged", "the loss is nan"),
    8: ("missing", "not run yet"),
}
