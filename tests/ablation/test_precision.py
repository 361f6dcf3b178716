"""One precision for all arms of an ablation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forgetkit.ablation.grid import Grid, plan_cells
from forgetkit.ablation.precision import share_precision
from forgetkit.registry import registry
from forgetkit.training import precision

COMPONENTS = registry.load(entry_points=False)
BASE = {"dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1", "threads": 1, "mega_batches": 2}


def share(axes: dict[str, tuple[str, ...]], cache: Path, **base: Any) -> set[str]:
    """The precisions of the cells, as the tasks say them."""
    plans = [plan for _, plan in plan_cells(Grid("", axes, (0,), {**BASE, **base}).cells(), COMPONENTS)]
    options = share_precision(plans, cache)
    return {option.get("precision", plan.config.precision) for option, plan in zip(options, plans, strict=True)}


@pytest.mark.parametrize(
    ("axes", "base", "expected"),
    [
        ({"model": ("mlp:width=4", "mlp:width=64")}, {}, {"fp32"}),  # one of them is too small
        ({"model": ("mlp:width=32", "mlp:width=64")}, {}, {"auto"}),
        ({"batch_size": ("2", "16")}, {"model": "mlp:width=16"}, {"fp32"}),
        ({"lr": ("0.1", "0.2")}, {"model": "mlp:width=4"}, {"auto"}),  # one network, which each cell decides for
        ({"model": ("mlp:width=4", "mlp:width=64")}, {"precision": "bf16"}, {"bf16"}),
    ],
)
def test_arms_of_other_networks_share_a_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axes: dict[str, Any], base: dict[str, Any], expected: set[str]
) -> None:
    monkeypatch.setattr(precision, "_BF16_OPERATIONS", 1e4)
    assert share(axes, tmp_path, **base) == expected
