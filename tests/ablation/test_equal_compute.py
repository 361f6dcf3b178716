"""Every arm sees the same number of training samples, and what cannot be matched is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import forgetkit
from forgetkit.ablation import equal_compute
from forgetkit.ablation.equal_compute import match_samples
from forgetkit.ablation.grid import Grid, GridCell, plan_cells
from forgetkit.engine.run_data import RunData
from forgetkit.errors import ConfigError
from forgetkit.registry import registry

OFFERS = registry.load(entry_points=False)
DATA = {"dataset": "synthetic:samples=97,test=20,classes=3,size=4,channels=1", "model": "mlp:width=8", "threads": 1}


def grid(axes: dict[str, tuple[str, ...]], seeds: tuple[int, ...] = (0,), **base: Any) -> Grid:
    return Grid("", axes, seeds, {**DATA, **base})


def match(asked: Grid, cache: Path) -> tuple[tuple[GridCell, ...], tuple[GridCell, ...]]:
    """The cells before and after."""
    cells, plans = zip(*plan_cells(asked.cells(), OFFERS), strict=True)
    return cells, match_samples(plans, cells, OFFERS, cache)


@pytest.mark.slow
@settings(max_examples=15)
@given(
    replay=st.sets(st.sampled_from(["full", "none", "last", "buffer:size=7"]), min_size=1),
    mega_batches=st.sets(st.integers(1, 6), min_size=1, max_size=3),
    epochs=st.integers(3, 5),
)
def test_all_see_as_many_as_the_one_that_sees_the_fewest(
    tmp_path_factory: pytest.TempPathFactory, replay: set[str], mega_batches: set[int], epochs: int
) -> None:
    axes = {"replay": tuple(sorted(replay)), "mega_batches": tuple(map(str, sorted(mega_batches)))}
    before, after = match(grid(axes, epochs=epochs), tmp_path_factory.getbasetemp())
    assert [(cell.arm, cell.seed) for cell in after] == [(cell.arm, cell.seed) for cell in before]
    totals = {cell.options["samples"] * plan.config.mega_batches for cell, plan in plan_cells(after, OFFERS)}
    assert len(totals) == 1
    fewest = epochs * min(_sum_of_pools(arm["replay"], int(arm["mega_batches"])) for arm in (c.arm for c in before))
    assert fewest - math.lcm(*mega_batches) < totals.pop() <= fewest


def _sum_of_pools(replay: str, mega_batches: int) -> int:
    """How many samples the mega-batches train on, for one epoch each, counted by hand."""
    pieces = [97 // mega_batches + (index < 97 % mega_batches) for index in range(mega_batches)]
    new = [piece - math.floor(piece * 0.1) for piece in pieces]
    kept = {
        "full": [sum(new[:index]) for index in range(mega_batches)],
        "none": [0] * mega_batches,
        "last": [0, *new[:-1]],
        "buffer:size=7": [0] + [7] * (mega_batches - 1),
    }[replay]
    return sum(new) + sum(kept)


@pytest.mark.slow
def test_the_runs_see_them(tmp_path: Path) -> None:
    asked = grid({"replay": ("full", "none"), "mega_batches": ("2", "3")}, epochs=2, milestones="1")
    _, after = match(asked, tmp_path)
    results = [forgetkit.run({**cell.options, "out": tmp_path}) for cell in after]
    assert len({result["samples_seen"] for result in results}) == 1
    seen = [[row["samples_seen"] for row in result["mega_batches"]] for result in results]
    assert all(len(set(rows)) == 1 for rows in seen)
    assert all(result["config"]["milestones"] is None for result in results)


def test_what_is_left_of_the_options(tmp_path: Path) -> None:
    usual = grid({"reinit": ("cold", "none")}, epochs=5, milestones="2,4", gamma=0.5, mega_batches=2)
    before, after = match(usual, tmp_path)
    for one, other in zip(before, after, strict=True):
        gone = {key: value for key, value in one.options.items() if key not in ("epochs", "milestones")}
        assert other.options == {**gone, "samples": 5 * _sum_of_pools("full", 2) // 2}
        assert other.shared == {key: one.shared[key] for key in one.shared.keys() - {"epochs", "milestones"}}
    none = grid({"reinit": ("cold", "none")}, epochs=5, milestones="none", mega_batches=2)
    assert [cell.options["milestones"] for cell in match(none, tmp_path)[1]] == ["none", "none"]
    cosine = grid({"schedule": ("cosine", "step")}, epochs=2, mega_batches=2)
    assert [plan.config.schedule for _, plan in plan_cells(match(cosine, tmp_path)[1], OFFERS)] == ["cosine", "step"]


def test_a_stream_that_cells_share_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    prepare = RunData.prepare

    def counted(plan: Any, *others: Any) -> RunData:
        made.append((plan.config.replay, plan.config.seed))
        assert plan.config.device == "cpu"  # on a device each process that has touched it takes memory
        return prepare(plan, *others)

    monkeypatch.setattr(equal_compute.RunData, "prepare", counted)
    monkeypatch.setattr("forgetkit.config.machine.resolve_device", lambda name: "cuda:0")
    axes = {"importance": ("snip", "random"), "replay": ("full", "none"), "lr": ("0.1", "0.2")}
    cells = match(grid(axes, (0, 1), epochs=2, precision="fp32"), tmp_path)[1]
    assert len(cells) == 16
    assert sorted(made) == [(replay, seed) for replay in ("full", "none") for seed in (0, 1)]


@pytest.mark.parametrize(
    ("axes", "base", "complaint"),
    [
        ({"reinit": ("cold", "none")}, {"samples": 40}, "says how many samples each cell sees: leave --samples out"),
        ({"samples": ("40", "50")}, {}, "says how many samples each cell sees: leave --samples out"),
        ({"reinit": ("cold", "none")}, {"patience": 2}, "with --patience 2 a cell may see fewer .* use --patience 0"),
        ({"reinit": ("cold", "none")}, {"milestones": "1,2"}, "--milestones 1,2 count epochs"),
        ({"epochs": ("2", "3")}, {}, "epochs=2 and epochs=3 would be the same run"),
        ({"mega_batches": ("7", "8", "9")}, {"epochs": 1, "replay": "none"}, "sees too few samples"),
    ],
)
def test_what_cannot_be_matched(
    tmp_path: Path, axes: dict[str, tuple[str, ...]], base: dict[str, Any], complaint: str
) -> None:
    given = {"epochs": 9, **base} if not {"samples", "epochs"} & {*axes, *base} else base
    with pytest.raises(ConfigError, match=f"--match samples.*{complaint}") as refused:
        match(grid(axes, **given), tmp_path)
    assert "\n" not in str(refused.value)
