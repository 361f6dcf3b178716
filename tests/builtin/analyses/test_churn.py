"""Predictions that flip, against loops over small tables of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from helpers.finished_runs import Past, told
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.analysis import answers
from forgetkit.analysis.evidence import model_evidence
from forgetkit.builtin.analyses.churn import Churn
from forgetkit.contracts import Answer, ComparedRun
from forgetkit.errors import InapplicableError
from forgetkit.seeding import Seeds
from forgetkit.testing import check_analysis, networks

NAMES = ("a", "b", "c")
LABELS = [0, 0, 1, 1, 2, 2, 2]
TABLES = [
    # right  lost  lost-back  never  gained  other  strays
    [0, 0, 1, 2, 0, 2, 0],
    [0, 1, 0, 2, 2, 2, 1],
    [0, 1, 1, 0, 2, 1, 0],
]


def number(answer: Answer, key: str) -> float:
    value: float = answers.answer_to_json(answer)["numbers"][key]["value"]
    return value


def series(answer: Answer, chart: str) -> dict[str, list[float]]:
    (found,) = (c for c in answer.charts if c.name == chart)
    return {s.name: list(s.y) for s in found.series}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    """Predictions of two to five mega-batches on one to twelve samples of three classes."""
    samples, mega_batches = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    row = st.lists(st.integers(0, 2), min_size=samples, max_size=samples)
    return draw(st.lists(row, min_size=mega_batches, max_size=mega_batches)), draw(row)


def fates(tables: Sequence[Sequence[int]], labels: Sequence[int]) -> list[dict[str, int | bool | None]]:
    """What became of each sample, one at a time."""
    found = []
    for at, label in enumerate(labels):
        right = [table[at] == label for table in tables]
        lost_for_good = right.count(True) > 0 and not right[-1]
        last = max((n for n, was in enumerate(right, 1) if was), default=None)
        found.append(
            {
                "label": label,
                "forgotten_after": last if lost_for_good else None,
                "never": not any(right),
                "events": sum(1 for before, after in pairwise(right) if before and not after),
            }
        )
    return found


def test_a_small_table_by_hand() -> None:
    answer = Churn().analyze(told(TABLES, LABELS))
    first, last = answer.details["steps"]
    assert first == {
        "from": 1, "to": 2, "changed": 4, "negative_flips": 2, "positive_flips": 1, "other_flips": 1,
        "right_before": 4, "right_after": 3, "by_chance": 4 * 4 / 7,
    }  # fmt: skip
    assert (last["changed"], last["negative_flips"], last["positive_flips"], last["other_flips"]) == (4, 1, 1, 2)
    assert number(answer, "negative_flips") == pytest.approx(1 / 7)
    assert number(answer, "negative_flips_mean") == pytest.approx(3 / 14)
    assert number(answer, "changed") == pytest.approx(4 / 7)
    assert number(answer, "forgetting_events") == pytest.approx(3 / 7)
    assert answer.details["forgotten"] == {
        "count": 2,
        "last_right_after": {"1": 1, "2": 1},
        "samples": [
            {"position": 1, "class": "a", "last_right_after": 1},
            {"position": 5, "class": "c", "last_right_after": 2},
        ],
    }
    never = answer.details["never_learned"]
    assert never == {"count": 2, "samples": [{"position": 3, "class": "b"}, {"position": 6, "class": "c"}]}
    assert series(answer, "flips") == {
        "right to wrong": pytest.approx([2 / 7, 1 / 7]),
        "wrong to right": pytest.approx([1 / 7, 1 / 7]),
        "wrong to another wrong": pytest.approx([1 / 7, 2 / 7]),
    }
    assert series(answer, "classes") == {
        "right to wrong": pytest.approx([0, 0, 1 / 3]),
        "wrong to right": pytest.approx([0, 1 / 2, 0]),
    }
    assert series(answer, "forgotten") == {"forgotten for good": pytest.approx([1 / 7, 1 / 7])}
    json.dumps(answers.answer_to_json(answer), allow_nan=False)


@pytest.mark.slow
@given(histories())
def test_flips_differ_by_the_change_in_accuracy(history: tuple[list[list[int]], list[int]]) -> None:
    tables, labels = history
    answer = Churn().analyze(told(tables, labels))
    for step, before, after in zip(answer.details["steps"], tables, tables[1:], strict=False):
        right = [sum(p == y for p, y in zip(table, labels, strict=True)) for table in (before, after)]
        assert step["positive_flips"] - step["negative_flips"] == right[1] - right[0]
        assert [step["right_before"], step["right_after"]] == right
        assert step["changed"] == sum(p != q for p, q in zip(before, after, strict=True))
        assert step["changed"] == step["positive_flips"] + step["negative_flips"] + step["other_flips"]


@pytest.mark.slow
@given(histories())
def test_a_loop_finds_the_same_lost_samples(history: tuple[list[list[int]], list[int]]) -> None:
    tables, labels = history
    answer = Churn().analyze(told(tables, labels))
    expected = fates(tables, labels)
    lost = {n: fate["forgotten_after"] for n, fate in enumerate(expected) if fate["forgotten_after"] is not None}
    listed = answer.details["forgotten"]["samples"]
    assert {row["position"]: row["last_right_after"] for row in listed} == lost
    assert [row["position"] for row in answer.details["never_learned"]["samples"]] == [
        n for n, fate in enumerate(expected) if fate["never"]
    ]
    events = [sum(int(fate["events"] or 0) for fate in expected if fate["label"] == y) for y in range(3)]
    rows = answer.details["classes"]
    assert [row["forgetting_events"] for row in rows] == events
    assert number(answer, "forgetting_events") == pytest.approx(sum(events) / len(labels))
    for kind in ("changed", "negative_flips", "positive_flips", "other_flips"):
        assert sum(row[kind] for row in rows) == answer.details["steps"][-1][kind]
    assert sum(row["samples"] for row in rows) == len(labels)
    assert sum(row["forgotten"] for row in rows) == answer.details["forgotten"]["count"] == len(lost)
    assert sum(row["never_learned"] for row in rows) == answer.details["never_learned"]["count"]


def test_models_that_say_the_same_flip_nothing() -> None:
    answer = Churn().analyze(told([TABLES[0]] * 3, LABELS))
    flipping = [key for key in answer.numbers if key != "never_learned"]
    assert [number(answer, key) for key in flipping] == [0.0] * len(flipping)
    assert number(answer, "never_learned") == pytest.approx(3 / 7)


def test_later_mega_batches_do_not_count() -> None:
    early = Churn().analyze(told(TABLES, LABELS, standing=2))
    assert answers.answer_to_json(early) == answers.answer_to_json(Churn().analyze(told(TABLES[:2], LABELS)))


def test_no_more_samples_are_written_down_than_wanted() -> None:
    answer = Churn(listed=1).analyze(told(TABLES, LABELS))
    assert answer.details["forgotten"]["count"] == 2
    assert [row["position"] for row in answer.details["forgotten"]["samples"]] == [1]
    assert Churn(listed=0).analyze(told(TABLES, LABELS)).details["never_learned"]["samples"] == []


def test_a_gap_between_the_models_is_said() -> None:
    run = told([TABLES[0], TABLES[1], TABLES[1], TABLES[2]], LABELS)
    models = {n: model for n, model in run.models.items() if n != 3}
    answer = Churn().analyze(Past(models, run.test, classes=NAMES))
    assert [(step["from"], step["to"]) for step in answer.details["steps"]] == [(1, 2), (2, 4)]
    assert any("1, 2, 4" in remark for remark in answer.remarks)
    assert not Churn().analyze(run).remarks


def test_more_classes_than_a_chart_has_room_for() -> None:
    names = [f"class {n}" for n in range(31)]
    answer = Churn().analyze(told(TABLES, LABELS, names))
    assert [chart.name for chart in answer.charts] == ["flips", "forgotten"]
    assert any("31 classes" in remark for remark in answer.remarks)
    assert len(answer.details["classes"]) == 31


@pytest.mark.parametrize("run", [told(TABLES[:1], LABELS), told(TABLES, LABELS, standing=1)])
def test_a_single_model_says_how_to_keep_more(run: Past) -> None:
    with pytest.raises(InapplicableError, match=r"keeps the model after \d alone.*--keep-models all"):
        Churn().analyze(run)


def test_a_model_by_itself_has_nothing_to_flip_from() -> None:
    situation = networks.plain()
    evidence = model_evidence(situation.model, {"test": situation.batches[0]}, Seeds(0))
    with pytest.raises(InapplicableError, match="directory"):
        Churn().analyze(evidence)
    assert {v.status for v in check_analysis(Churn())} == {"kept", "not applicable"}


def asked(arm: str, seed: int, tables: Sequence[Sequence[int]], labels: Sequence[int] = LABELS) -> ComparedRun:
    run = told(tables, labels)
    return ComparedRun({"method": arm}, seed, run, Churn().analyze(run))


def test_what_the_seed_alone_changes() -> None:
    cells = [
        asked("warm", 0, [TABLES[0], TABLES[1]]),
        asked("warm", 1, [TABLES[1], TABLES[2]]),
        asked("warm", 2, [TABLES[0], TABLES[2]]),
        asked("cold", 0, [TABLES[0], TABLES[1]]),
        asked("cold", 1, [TABLES[1], TABLES[1]]),
        asked("lure", 0, TABLES),
    ]
    answer = Churn().compare(cells)
    pairs = answer.details["between_seeds"]
    assert [(p["seeds"], p["changed"]) for p in pairs["warm"]] == [
        ([0, 1], pytest.approx(4 / 7)),
        ([0, 2], pytest.approx(4 / 7)),
        ([1, 2], 0.0),
    ]
    assert [p["right_in_one_alone"] for p in pairs["warm"]] == [pytest.approx(2 / 7), pytest.approx(2 / 7), 0.0]
    assert number(answer, "between_seeds") == pytest.approx((4 + 4 + 0 + 0) / 7 / 4)
    shown = series(answer, "seeds")
    assert shown["two seeds"] == pytest.approx([8 / 21, 0.0])
    steps = [[4, 4, 4], [4, 0]]  # of the last step of each run, by hand
    assert shown["two mega-batches"] == pytest.approx([sum(s) / 7 / len(s) for s in steps])
    (chart,) = answer.charts
    spread = chart.series[0].spread
    assert spread is not None
    assert spread[0] == pytest.approx(float(torch.tensor([4 / 7, 4 / 7, 0.0], dtype=torch.float64).std()))
    assert any("lure" in remark for remark in answer.remarks)
    json.dumps(answers.answer_to_json(answer), allow_nan=False)


def test_seeds_with_other_test_samples_are_not_compared() -> None:
    with pytest.raises(InapplicableError, match="more seeds"):
        Churn().compare([asked("warm", 0, TABLES), asked("warm", 1, TABLES, LABELS[::-1])])


def test_a_model_that_is_gone_is_not_passed_over_in_silence() -> None:
    run = told(TABLES, LABELS, standing=2)
    del run.models[2]
    with pytest.raises(InapplicableError, match=r"up to mega-batch 2 .* after 1 alone.*--keep-models all"):
        Churn().analyze(run)
    longer = told([*TABLES, *TABLES], LABELS, standing=3)
    del longer.models[3]
    with pytest.raises(InapplicableError, match="the models after 1, 2 alone"):
        Churn().analyze(longer)


def test_a_run_without_its_model_is_left_out_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [asked("warm", 0, TABLES), asked("warm", 1, TABLES), asked("warm", 2, TABLES)]

    def gone(samples: object, model: object = None) -> torch.Tensor:
        raise InapplicableError("it keeps no model")

    monkeypatch.setattr(cells[1].evidence, "outputs", gone)
    answer = Churn().compare(cells)
    assert [pair["seeds"] for pair in answer.details["between_seeds"]["warm"]] == [[0, 2]]
    (remark,) = answer.remarks
    assert "warm, seed 1: it keeps no model" in remark
    monkeypatch.setattr(cells[0].evidence, "outputs", gone)
    with pytest.raises(InapplicableError, match=r"more seeds.*seed 0 1: it keeps no model"):
        Churn().compare(cells)
