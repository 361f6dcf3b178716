"""What masks share: closed forms, sets, and stand-ins for runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import hypergeom
from torch import Tensor

from forgetkit.analysis import answers
from forgetkit.analysis.evidence import ModelEvidence, model_evidence
from forgetkit.builtin.analyses._mask_overlap import MaskOverlap, Retained, Total
from forgetkit.builtin.analyses.overlap import Overlap
from forgetkit.contracts import Answer, ComparedRun
from forgetkit.errors import InapplicableError
from forgetkit.seeding import Seeds
from forgetkit.testing import check_analysis

Masks = Mapping[str, Tensor]
SEEDS = Seeds(0)


@dataclass
class Run:
    """As much of a run's evidence as masks and scores."""

    recorded: Mapping[int, Masks] = field(default_factory=dict)
    scored: Mapping[int, Masks] = field(default_factory=dict)
    seeds: Seeds = SEEDS
    standing: int = 0
    mega_batch: int | None = None

    def masks(self) -> Mapping[int, Masks]:
        return self.recorded

    @property
    def mega_batches(self) -> tuple[int, ...]:
        return tuple(self.scored)

    def at(self, mega_batch: int) -> Run:
        return Run(scored=self.scored, standing=mega_batch)

    def scores(self, importance: str, params: str = "all") -> Masks:
        assert importance == "a:b=1"
        return self.scored[self.standing]


def reset(seed: int, share: float = 0.5, **sizes: int) -> dict[str, Tensor]:
    """A mask that resets a random ``share`` of each layer."""
    rng = np.random.default_rng(seed)
    masks = {}
    for name, size in sizes.items():
        mask = np.zeros(size, dtype=bool)
        mask[rng.permutation(size)[: round(share * size)]] = True
        masks[name] = torch.from_numpy(mask)
    return masks


def asked(seed: int, masks: Masks, **arm: str) -> ComparedRun:
    return ComparedRun(arm, seed, Run({1: {"a": ~masks["a"]}, 2: masks}))  # type: ignore[arg-type]


def analyzed(*masks: Masks, **options: Any) -> Answer:
    answer = Overlap(**options).analyze(Run(dict(enumerate(masks, 1))))  # type: ignore[arg-type]
    json.dumps(answers.answer_to_json(answer), allow_nan=False)
    return answer


def value(answer: Answer, key: str) -> float | None:
    return answers.answer_columns([answers.StoredAnswer("overlap", "overlap", "", None, answer)])[
        f"overlap_{key}"
    ].value


def series(answer: Answer, chart: str) -> dict[str, dict[Any, float | None]]:
    (found,) = [c for c in answer.charts if c.name == chart]
    return {s.name: dict(zip(s.x, s.y, strict=True)) for s in found.series}


# Counting


@given(st.data())
def test_counts_are_those_of_sets(data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    first, second = (data.draw(arrays.arrays(bool, shape)) for _ in range(2))
    one, other = ({i for i, at in enumerate(mask.ravel()) if not at} for mask in (first, second))
    shared = Retained.of(torch.from_numpy(first)).shared_with(Retained.of(torch.from_numpy(second)))
    assert shared == MaskOverlap(first.size, len(one), len(other), len(one & other))
    assert shared.share == (len(one & other) / len(one) if one else None)
    assert shared.jaccard == (len(one & other) / len(one | other) if one | other else None)
    assert shared.chance == (len(other) / first.size if first.size else None)
    if {0, first.size} & {len(one), len(other)}:
        assert shared.corrected is None
    else:
        r = len(other) / first.size
        assert shared.corrected == pytest.approx((len(one & other) / len(one) - r) / (1 - r), abs=1e-12)
    assert Total({"a": shared}).corrected == pytest.approx(shared.corrected)
    assert Total({"a": shared}).share == shared.share
    assert shared.swapped == Retained.of(torch.from_numpy(second)).shared_with(Retained.of(torch.from_numpy(first)))


def test_a_strided_mask_is_read_in_logical_order() -> None:
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    assert np.array_equal(Retained.of(mask.T).bits, Retained.of(mask.T.contiguous()).bits)


@pytest.mark.parametrize(("density", "other"), [(0.8, 0.8), (0.9, 0.3), (0.05, 0.5)])
def test_random_masks_share_nothing_beyond_chance(density: float, other: float) -> None:
    n, repeats = 400, 300
    a, b = round(density * n), round(other * n)
    found, deviations = [], set()
    for seed in range(repeats):
        first, second = reset(2 * seed, 1 - density, a=n), reset(2 * seed + 1, 1 - other, a=n)
        shared = Retained.of(first["a"]).shared_with(Retained.of(second["a"]))
        assert (shared.first, shared.second) == (a, b)
        found.append(shared.corrected)
        deviations.add(shared.deviation)
    deviation = hypergeom(n, b, a).std() / (a * (1 - b / n))
    assert [*deviations] == [pytest.approx(deviation)]
    assert abs(np.mean(found)) < 4 * deviation / math.sqrt(repeats)
    assert np.std(found) == pytest.approx(deviation, rel=0.2)


def test_all_that_two_densities_can_share_and_the_least() -> None:
    whole = torch.arange(10)
    retains = {3: whole < 3, 5: whole < 5, -5: whole >= 5}

    def corrected(first: int, second: int) -> float | None:
        return Retained.of(~retains[first]).shared_with(Retained.of(~retains[second])).corrected

    assert corrected(5, 5) == corrected(3, 5) == 1.0
    assert corrected(5, -5) == corrected(3, -5) == pytest.approx(-0.5 / 0.5)
    assert corrected(5, 3) == pytest.approx((3 / 5 - 0.3) / 0.7)


def test_layers_retained_to_unequal_parts_are_no_overlap() -> None:
    """Random masks share more than the density of the network where the densities of its layers differ."""
    found = []
    for seed in range(200):
        pair = {}
        for name, share in (("a", 0.9), ("b", 0.1)):
            one, other = (reset(4 * seed + k, share, layer=300)["layer"] for k in ((0, 1) if name == "a" else (2, 3)))
            pair[name] = Retained.of(one).shared_with(Retained.of(other))
        total = Total(pair)
        assert total.share is not None
        assert total.share > 0.75 > (0.9 + 0.1) / 2
        found.append(total.corrected)
    assert abs(np.mean(found)) < 0.02


# Along a run


def test_identical_and_complementary_masks() -> None:
    mask = reset(0, 0.25, conv=80, head=40)
    half = reset(1, 0.5, conv=80, head=40)
    answer = analyzed(mask, mask, mask)
    assert [value(answer, key) for key in ("share", "jaccard", "corrected")] == [1.0, 1.0, 1.0]
    assert series(answer, "share") == {name: {"conv": 1.0, "head": 1.0} for name in ("1 and 2", "2 and 3")}
    opposite = analyzed(half, {name: ~m for name, m in half.items()})
    assert [value(opposite, key) for key in ("share", "jaccard", "corrected")] == [0.0, 0.0, -1.0]


def test_numbers_are_means_over_pairs_and_details_hold_each() -> None:
    masks = [reset(seed, 0.3, a=50, b=20) for seed in range(3)]
    answer = analyzed(*masks)
    pairs = answer.details["pairs"]
    assert [(p["earlier"], p["later"]) for p in pairs] == [(1, 2), (2, 3)]
    for key in ("share", "jaccard", "corrected"):
        assert value(answer, key) == pytest.approx(np.mean([p[key] for p in pairs]))
        assert series(answer, "course")[key] == {2: pairs[0][key], 3: pairs[1][key]}
    kept = [{k: ~m.numpy() for k, m in mask.items()} for mask in masks]
    for i, pair in enumerate(pairs):
        both = sum(int((kept[i][k] & kept[i + 1][k]).sum()) for k in "ab")
        assert pair["share"] == both / sum(int(kept[i][k].sum()) for k in "ab")
        for k in "ab":
            layer = pair["layers"][k]
            assert series(answer, "share")[f"{i + 1} and {i + 2}"][k] == layer["share"]
            assert series(answer, "corrected")[f"{i + 1} and {i + 2}"][k] == layer["corrected"]
            assert layer["chance"] == kept[i + 1][k].mean()


def test_layers_without_chance_are_told_apart() -> None:
    def mask(seed: int) -> dict[str, Tensor]:
        return {
            **reset(seed, 0.5, a=30),
            "kept": torch.zeros(4, dtype=torch.bool),
            "gone": torch.ones(4, dtype=torch.bool),
            "scalar": torch.tensor(False),
            "empty": torch.zeros(0, 3, dtype=torch.bool),
        }

    answer = analyzed(mask(0), mask(1))
    assert series(answer, "share")["1 and 2"] | {"a": None} == {
        "a": None,
        "kept": 1.0,
        "gone": None,
        "scalar": 1.0,
        "empty": None,
    }
    corrected = series(answer, "corrected")["1 and 2"]
    assert [name for name, y in corrected.items() if y is not None] == ["a"]
    assert value(answer, "corrected") == pytest.approx(corrected["a"])
    assert answer.remarks == (
        ["in 4 of 5 comparisons of a layer a mask retains all or nothing of it: "
         "share and jaccard count it, the corrected value cannot"]
    )  # fmt: skip


def test_a_layer_in_one_mask_alone_is_left_out_and_told_of() -> None:
    answer = analyzed(reset(0, a=10, b=10), reset(1, a=10, c=10), reset(2, a=10, c=10))
    assert list(answer.details["pairs"][0]["layers"]) == ["a"]
    assert list(answer.details["pairs"][1]["layers"]) == ["a", "c"]
    assert "b, c" in answer.remarks[0]
    assert series(answer, "share")["1 and 2"]["c"] is None


def test_of_many_pairs_a_few_are_drawn() -> None:
    answer = analyzed(*(reset(seed, a=10) for seed in range(20)))
    drawn = list(series(answer, "share"))
    assert len(drawn) == 8
    assert drawn[0] == "1 and 2"
    assert drawn[-1] == "19 and 20"
    assert len(answer.details["pairs"]) == 19
    assert any("of 19 pairs of masks, 8 are drawn" in remark for remark in answer.remarks)


WHOLE = {"a": torch.ones(6, dtype=torch.bool), "b": torch.zeros(3, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([], "the run forgot nothing"),
        ([reset(0, a=10)], "a single mask, after mega-batch 1.*three mega-batches or more.*importance=snip"),
        ([WHOLE, WHOLE], "whole or not at all"),
        ([reset(0, a=10), reset(0, a=11)], r"'a' in shapes \(10,\) and \(11,\)"),
    ],
)
def test_what_it_does_not_apply_to(masks: list[Masks], said: str) -> None:
    with pytest.raises(InapplicableError, match=said) as caught:
        analyzed(*masks)
    assert "\n" not in str(caught.value)


# Masks made of scores


def test_a_criterion_masks_the_lowest_scores_of_each_model() -> None:
    rng = torch.Generator().manual_seed(0)
    scores = {n: {"a": torch.rand(5, 7, generator=rng), "b": torch.rand(13, generator=rng)} for n in (1, 2, 3)}
    answer = Overlap(importance="a:b=1", fraction=0.3).analyze(Run(scored=scores))  # type: ignore[arg-type]
    masks = []
    for of in scores.values():
        cut = np.sort(np.concatenate([s.numpy().ravel() for s in of.values()]))[math.floor(0.3 * 48)]
        masks.append({name: s < cut for name, s in of.items()})
    same = analyzed(*masks)
    assert answer.details == {**same.details, "importance": "a:b=1"}
    assert (answer.numbers, answer.charts, answer.remarks) == (same.numbers, same.charts, same.remarks)


def test_entries_that_tie_are_no_overlap() -> None:
    alike = {n: {"a": torch.zeros(4000)} for n in (1, 2)}
    answer = Overlap(importance="a:b=1", fraction=0.5).analyze(Run(scored=alike))  # type: ignore[arg-type]
    corrected = value(answer, "corrected")
    assert corrected is not None
    assert abs(corrected) < 4 / math.sqrt(4000)


@pytest.mark.parametrize(
    ("models", "said"),
    [((), "analyse the directory of a run"), ((2,), "a single mask, after mega-batch 2.*--keep-models all")],
)
def test_a_criterion_needs_kept_models(models: tuple[int, ...], said: str) -> None:
    run = Run(scored={n: {"a": torch.rand(4)} for n in models})
    with pytest.raises(InapplicableError, match=said):
        Overlap(importance="a:b=1").analyze(run)  # type: ignore[arg-type]


# Across runs


def test_arms_are_compared_at_one_seed_and_seeds_within_an_arm() -> None:
    masks = {(lr, seed): reset(7 * seed + k, 0.4, a=60) for k, lr in enumerate("xyz") for seed in (1, 2)}
    cells = [asked(seed, mask, lr=lr, model="net") for (lr, seed), mask in masks.items()]
    answer = Overlap().compare(cells)
    json.dumps(answers.answer_to_json(answer), allow_nan=False)

    def both(one: tuple[str, int], other: tuple[str, int]) -> float:
        first, second = (set(np.flatnonzero(~masks[at]["a"].numpy())) for at in (one, other))
        return (len(first & second) / len(first) - 0.6) / 0.4

    heat = series(answer, "arms")
    assert list(heat) == ["lr=x", "lr=y", "lr=z"]
    for one in "xyz":
        assert heat[f"lr={one}"][f"lr={one}"] == pytest.approx(both((one, 1), (one, 2)))
        for other in set("xyz") - {one}:
            expected = np.mean([both((one, seed), (other, seed)) for seed in (1, 2)])
            assert heat[f"lr={one}"][f"lr={other}"] == pytest.approx(expected)
    lines = series(answer, "corrected")
    assert list(lines) == [
        *("lr=x and lr=y", "lr=x and lr=z", "lr=y and lr=z"),
        *("seeds of lr=x", "seeds of lr=y", "seeds of lr=z"),
    ]
    assert lines["lr=x and lr=z"]["a"] == pytest.approx(heat["lr=x"]["lr=z"])
    (chart,) = [c for c in answer.charts if c.name == "corrected"]
    each = [both(("x", seed), ("y", seed)) for seed in (1, 2)]
    assert chart.series[0].spread == [pytest.approx(np.std(each, ddof=1))]
    single = answer.details["pairs"]
    assert [len(single), chart.series[3].spread] == [9, [pytest.approx(hypergeom(60, 36, 36).std() / (36 * 0.4))]]
    off = [heat[f"lr={a}"][f"lr={b}"] for a, b in ("xy", "xz", "yz")]
    assert value(answer, "between_arms") == pytest.approx(np.mean(off))
    assert value(answer, "between_seeds") == pytest.approx(np.mean([heat[f"lr={a}"][f"lr={a}"] for a in "xyz"]))
    assert answer.details["mega_batch"] == 2
    assert len(answer.details["pairs"]) == 9


def test_arms_that_differ_in_one_axis_are_drawn_first() -> None:
    cells = [
        asked(seed, reset(31 * seed + 5 * x + y, a=40), lr=str(x), wd=str(y))
        for x in range(2)
        for y in range(2)
        for seed in (1, 2)
    ]
    answer = Overlap().compare(cells)
    assert list(series(answer, "share")) == [
        "lr=0, wd=0 and lr=0, wd=1",
        "lr=0, wd=0 and lr=1, wd=0",
        "lr=0, wd=1 and lr=1, wd=1",
        "lr=1, wd=0 and lr=1, wd=1",
        *(f"seeds of lr={x}, wd={y}" for x in range(2) for y in range(2)),
    ]
    assert answer.remarks == ["of 10 pairs of arms, 8 are drawn by layer; the heat map holds all"]


def test_rows_of_the_heat_are_those_whose_share_it_is() -> None:
    some, few = {"a": torch.arange(10) >= 6}, {"a": torch.arange(10) >= 2}
    heat = series(Overlap().compare([asked(1, some, m="six"), asked(1, few, m="two")]), "arms")
    assert heat["m=six"]["m=two"] == pytest.approx((2 / 6 - 0.2) / 0.8)
    assert heat["m=two"]["m=six"] == pytest.approx(1.0)
    assert heat["m=six"]["m=six"] is None


def test_runs_that_cannot_be_compared_are_told_of_and_left_out() -> None:
    cells = [
        *(asked(seed, reset(seed, a=20), m="masked") for seed in (1, 2)),
        *(ComparedRun({"m": "none"}, seed, Run()) for seed in (1, 2)),  # type: ignore[arg-type]
        asked(1, {"a": torch.ones(20, dtype=torch.bool)}, m="cold"),
        asked(1, reset(0, a=30), m="wide"),
    ]
    answer = Overlap().compare(cells)
    assert list(series(answer, "arms")) == ["all"]
    assert answer.remarks[0].startswith("left out: m=none, seed 1 2: the run forgot nothing")
    assert answer.remarks[1].startswith("left out: m=cold, seed 1: its masks reset each parameter whole")
    assert answer.remarks[2].startswith("left out: m=wide, seed 1: its masks are of other parameters")
    assert value(answer, "between_arms") is None
    assert value(answer, "between_seeds") is not None
    with pytest.raises(InapplicableError, match=r"two runs with masks.*there is 1 \(left out: m=none"):
        Overlap().compare(cells[1:4])


def test_the_mega_batch_is_the_last_common_one_by_default() -> None:
    def cell(seed: int, *after: int) -> ComparedRun:
        return ComparedRun({"m": "a"}, seed, Run({n: reset(10 * seed + n, a=20) for n in after}))  # type: ignore[arg-type]

    cells = [cell(1, 1, 2, 3), cell(2, 1, 2), cell(3, 1, 2, 3)]
    assert Overlap().compare(cells).details["mega_batch"] == 2
    answer = Overlap(mega_batch=3).compare(cells)
    assert answer.details["mega_batch"] == 3
    assert answer.details["pairs"][0]["seeds"] == [1, 3]
    assert answer.remarks == ["left out: m=a, seed 2: it has no mask after mega-batch 3"]
    with pytest.raises(InapplicableError, match="no mega-batch after which all runs have a mask"):
        Overlap().compare([cell(1, 1), cell(2, 2)])
    with pytest.raises(InapplicableError, match="give each arm the same seeds"):
        Overlap().compare([asked(1, reset(0, a=9), m="a"), asked(2, reset(1, a=9), m="b")])


def test_with_a_criterion_runs_that_never_masked_are_compared() -> None:
    rng = torch.Generator().manual_seed(0)
    cells = [
        ComparedRun({"m": m}, 1, Run(scored={n: {"a": torch.rand(40, generator=rng)} for n in (1, 2)}))  # type: ignore[arg-type]
        for m in ("warm", "cold")
    ]
    answer = Overlap(importance="a:b=1").compare(cells)
    lows = [set(cell.evidence.at(2).scores("a:b=1")["a"].argsort()[8:].tolist()) for cell in cells]
    assert series(answer, "share")["m=warm and m=cold"]["a"] == len(lows[0] & lows[1]) / 32


@pytest.mark.parametrize("component", [Overlap(), Overlap(importance="snip")])
def test_it_keeps_the_promises_of_analyses(component: Overlap) -> None:
    check_analysis(component)


def test_a_random_criterion_draws_per_run_and_mega_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(50, 40)
    batch = torch.rand(4, 50), torch.arange(4)
    shown = model_evidence(model, {"train": batch, "test": batch}, SEEDS)
    scores = {}
    for apart in (("a", 1), ("a", 2), ("b", 2), ("b", 2)):
        monkeypatch.setattr(ModelEvidence, "apart", property(lambda _, apart=apart: apart))
        again = shown.scores("random")["weight"]
        assert torch.equal(scores.setdefault(apart, again), again)
    halves = [own < own.median() for own in scores.values()]
    for one, other in combinations(halves, 2):
        corrected = Retained.of(one).shared_with(Retained.of(other)).corrected
        assert corrected is not None
        assert abs(corrected) < 4 / math.sqrt(2000)


@pytest.mark.parametrize("importance", [None, "a:b=1"])
def test_what_came_after_the_mega_batch_asked_about_has_no_part(importance: str | None) -> None:
    masks = {n: reset(n, a=40, b=20) for n in (1, 2, 3)}
    scores = {n: {name: torch.rand(len(mask)) for name, mask in own.items()} for n, own in masks.items()}

    def pairs(mega_batch: int) -> list[tuple[int, int]]:
        run = Run(masks, scores, mega_batch=mega_batch)
        details = Overlap(importance).analyze(run).details  # type: ignore[arg-type]
        return [(pair["earlier"], pair["later"]) for pair in details["pairs"]]

    assert pairs(3) == [(1, 2), (2, 3)]
    assert pairs(2) == [(1, 2)]
    with pytest.raises(InapplicableError, match="a single mask, after mega-batch 1"):
        pairs(1)
    with pytest.raises(InapplicableError, match="up to mega-batch 0"):
        pairs(0)


def test_runs_are_compared_at_their_last_common_mask() -> None:
    masks = {n: reset(n, a=40) for n in (1, 2, 3)}
    cells = [ComparedRun({}, seed, Run(masks, mega_batch=2)) for seed in (0, 1)]  # type: ignore[arg-type]
    assert Overlap().compare(cells).details["mega_batch"] == 2


def test_masks_with_one_between_them_missing_are_told_of() -> None:
    masks = {n: reset(n, a=40) for n in (1, 2, 4)}
    assert any("1, 2, 4" in remark for remark in Overlap().analyze(Run(masks)).remarks)  # type: ignore[arg-type]
    assert not any("span" in remark for remark in analyzed(*masks.values()).remarks)


def test_entries_that_tie_are_no_overlap_of_runs() -> None:
    scores = {1: {"a": torch.zeros(4000)}}
    cells = [
        ComparedRun({"lr": rate}, seed, Run(scored=scores))  # type: ignore[arg-type]
        for rate in ("0.1", "0.2")
        for seed in (0, 1)
    ]
    found = Overlap("a:b=1", fraction=0.5).compare(cells)
    deviation = 1 / math.sqrt(4000 - 1)
    for pair in found.details["pairs"]:
        assert abs(pair["corrected"]) < 5 * deviation
    assert len(found.details["pairs"]) == 4
