"""Sensitivity against a pivot of its own, on grids with holes, of several methods, by several seeds."""

from __future__ import annotations

import itertools
from collections import defaultdict
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.analysis import answers
from forgetkit.builtin.analyses.sensitivity import Sensitivity
from forgetkit.contracts import ComparedRun
from forgetkit.errors import InapplicableError

RATES, DECAYS = (0.005, 0.01, 0.05, 0.1), (0.0, 1e-4, 5e-4, 1e-3)


def cell(
    method: str, rate: float, decay: float, seed: int, accuracy: float | None = None, **beside: object
) -> ComparedRun:
    """As an ablation asks; its evidence has a result and nothing else, so that no model can be touched."""
    config = {"lr": rate, "weight_decay": decay}
    result = {"config": config, "method": method, **beside}
    if accuracy is not None:
        result["test_accuracy"] = accuracy
    arm = {"method": method, "lr": f"{rate}", "weight_decay": f"{decay:g}"}
    return ComparedRun(arm, seed, SimpleNamespace(result=result))


@pytest.mark.slow
@given(st.data())
def test_maps_and_ranges_are_those_of_a_pivot(data):
    places = list(itertools.product(("warm", "a: b"), RATES[:3], DECAYS[:2], (0, 1)))
    taken = data.draw(st.lists(st.sampled_from(places), min_size=12, unique=True))
    values = data.draw(st.lists(st.floats(0, 1), min_size=len(taken), max_size=len(taken)))
    cells = [cell(*place, value) for place, value in zip(taken, values, strict=True)]
    if min(len({p[1] for p in taken}), len({p[2] for p in taken})) < 2:
        with pytest.raises(InapplicableError):
            Sensitivity().compare(cells)
        return
    answer = Sensitivity().compare(cells)
    pivot: dict = defaultdict(list)
    for (method, rate, decay, _), value in zip(taken, values, strict=True):
        pivot[method, decay, rate].append(value)
    maps = {chart.caption.partition(": test")[0]: chart for chart in answer.charts if chart.kind == "heat"}
    assert set(maps) == {method for method, *_ in taken}
    for method, chart in maps.items():
        drawn = {
            (method, float(row.name), x): y
            for row in chart.series
            for x, y in zip(row.x, row.y, strict=True)
            if y is not None
        }
        mine = {key: sum(own) / len(own) for key, own in pivot.items() if key[0] == method}
        assert drawn == pytest.approx(mine)
        detail = answer.details["methods"][method]
        assert detail["range"] == pytest.approx(max(mine.values()) - min(mine.values()))
        best = (method, detail["best_at"]["weight_decay"], detail["best_at"]["lr"])
        assert mine[best] == pytest.approx(max(mine.values()))
    ranges = [detail["range"] for detail in answer.details["methods"].values()]
    assert answer.numbers["largest_range"].value == max(ranges)
    assert answers.answer_from_json(answers.answer_to_json(answer)).charts[0].kind == "heat"


def test_the_papers_grid():
    """Weight decay costs one method sixteen points, at each learning rate, and the other none: the map says so."""
    cells = [
        cell(method, rate, decay, seed, 0.91 - 160 * decay * (method == "warm"))
        for method, rate, decay, seed in itertools.product(("warm", "lure"), RATES, DECAYS, (0, 1, 2))
    ]
    answer = Sensitivity().compare(cells)
    assert [chart.name for chart in answer.charts] == ["test-accuracy-warm", "test-accuracy-lure", "range"]
    warm, _, bars = answer.charts
    assert [row.name for row in warm.series] == ["0", "0.0001", "0.0005", "0.001"]
    assert [tuple(row.x) for row in warm.series] == [RATES] * 4
    assert dict(zip(bars.series[0].x, bars.series[0].y, strict=True)) == pytest.approx({"warm": 0.16, "lure": 0.0})
    assert answer.numbers["largest_range"].value == pytest.approx(0.16)
    assert answer.remarks == []
    assert answer.details["methods"]["warm"]["best_at"] == {"lr": 0.005, "weight_decay": 0.0}


def test_what_is_missing_is_a_gap_and_is_said():
    cells = [cell("warm", rate, decay, 0, 0.5) for rate in RATES for decay in DECAYS]
    del cells[5]
    answer = Sensitivity().compare(cells)
    (chart,) = answer.charts
    assert (chart.name, chart.series[1].y[1]) == ("test-accuracy", None)
    assert answer.remarks == [
        "warm: 15 of 16 combinations have a run, and its range is over these",
        "one seed each: a range includes the differences between seeds",
    ]


def test_another_number_and_its_direction():
    cells = [cell("m", rate, decay, 0, cer=10 * rate, odd=1.0) for rate in RATES for decay in DECAYS]
    answer = Sensitivity(metric="cer").compare(cells)
    assert answer.details["methods"]["m"]["best_at"]["lr"] == 0.005
    assert answer.charts[0].unit == "count"
    assert Sensitivity(metric="odd").compare(cells).details["methods"]["m"]["best_at"] is None
    with pytest.raises(InapplicableError, match="no run has a number 'test_accuracy'"):
        Sensitivity().compare(cells)


def test_names_of_methods_become_words_apart():
    cells = [
        cell(method, rate, decay, 0, 0.5)
        for method in ("masked:fraction=0.2", "masked fraction 0.2", "学习", "2")
        for rate in RATES[:2]
        for decay in DECAYS[:2]
    ]
    names = [chart["name"] for chart in answers.answer_to_json(Sensitivity().compare(cells))["charts"]]
    assert names == ["test-accuracy_1", "test-accuracy_2", "test-accuracy_3", "test-accuracy-2", "range"]


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([(0.1, 0.0)], "1 learning rate and 1 weight decay"),
        ([(0.1, 0.0), (0.1, 1e-3)], "1 learning rate and 2 weight decays"),
        ([(0.1, 0.0), (0.2, 0.0)], "2 learning rates and 1 weight decay;"),
    ],
)
def test_without_both_axes_the_command_is_named(places, said):
    with pytest.raises(InapplicableError, match=rf"{said}.*forgetkit ablate .*--over lr=.*--over weight-decay="):
        Sensitivity().compare([cell("warm", *place, seed=0, accuracy=0.5) for place in places])


def test_a_run_by_itself_is_no_grid():
    with pytest.raises(InapplicableError, match=r"one learning rate .*--over lr="):
        Sensitivity().analyze(SimpleNamespace())
