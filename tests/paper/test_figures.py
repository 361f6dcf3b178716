"""Figures whose numbers are answers of analyses: which number stands where, what is asked, what the caption says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import forgetkit
from forgetkit.analysis.answers import StoredAnswer
from forgetkit.analysis.questions import Question
from forgetkit.builtin.analyses.corruption import CORRUPTIONS
from forgetkit.contracts import Answer, Chart, Measure, Series
from forgetkit.paper import reference, render, scaled_table
from forgetkit.paper.answer_columns import AnswerColumn, add_answer_columns
from forgetkit.paper.comparison import compare_with_paper
from forgetkit.paper.reference import SCALES
from forgetkit.paper.run_analyses import FigureRuns
from forgetkit.registry import registry
from forgetkit.registry.spec import parse_spec
from forgetkit.results.outcome import Outcome, Outcomes

OFFERS = registry.load(entry_points=False)
SHARES = [0.3 + 0.01 * n for n in range(len(CORRUPTIONS))]
ASKING = [name for name in reference.table_names() if reference.read_table(name).queries]


def kept(label: str, answer: Answer) -> StoredAnswer:
    return StoredAnswer(label=label, analysis=label, summary="", mega_batch=None, answer=answer)


def cell(arm: Mapping[str, str], answers: tuple[StoredAnswer, ...] = (), seed: int = 0, **result: Any) -> Outcome:
    return Outcome(arm, seed, f"{sorted(arm.items())}{seed}", "completed", result, answers=answers)


# Which number of which answer


def line(name: str, x: Any, y: Any) -> Chart:
    return Chart(name, "", "", "", [Series("one", x, y)])


FOUND = Answer(
    numbers={"a": Measure(0.5, "higher"), "b": 2.0, "zero": 0.0, "none": None},
    charts=[
        line("by-size", [0.1 * n for n in range(4)], [1.0, 2.0, 3.0, None]),
        line("by-name", ["fog", "up"], [7.0, 8.0]),
    ],
)
VALUES = {
    "a measure": (AnswerColumn("x", "a"), 0.5),
    "a bare number": (AnswerColumn("x", "b"), 2.0),
    "a number of the arm's": (AnswerColumn("x", {"left": "a", "right": "b"}), 2.0),
    "a number of the part's": (AnswerColumn("x", {"up": "b", "down": "a"}), 2.0),
    "a share": (AnswerColumn("x", "a", over="b"), 0.25),
    "a share of the arm's": (AnswerColumn("x", {"right": "b"}, over={"right": "a"}), 4.0),
    "a share of nothing": (AnswerColumn("x", "a", over="zero"), None),
    "a share of what is not there": (AnswerColumn("x", "a", over="none"), None),
    "no share without a number": (AnswerColumn("x", "none", over="a"), None),
    "a point, as it is written": (AnswerColumn("x", chart="by-size", at="0.3"), None),
    "a point that is no sum in binary": (AnswerColumn("x", chart="by-size", at="0.2"), 3.0),
    "a point with a name": (AnswerColumn("x", chart="by-name", at={"up": "fog"}), 7.0),
    "a point with the part's name": (AnswerColumn("x", {"down": "a"}, chart="by-name"), 8.0),
    "a number before a point": (AnswerColumn("x", {"up": "a"}, chart="by-name", at="fog"), 0.5),
    "no such point": (AnswerColumn("x", chart="by-size", at="0.15"), None),
    "no such chart": (AnswerColumn("x", chart="by-weight", at="0.1"), None),
    "no such number": (AnswerColumn("x", "c"), None),
    "nothing for this row": (AnswerColumn("x", {"left": "a"}), None),
}


@pytest.mark.parametrize("what", VALUES)
def test_which_number_a_row_takes(what: str) -> None:
    answer_columns, expected = VALUES[what]
    assert answer_columns.value(FOUND, "up", "right") == (None if expected is None else pytest.approx(expected))


def test_answer_columns_match_part_and_arm_and_keep_results() -> None:
    cells = tuple(
        cell({"part": part, "method": arm}, (kept("other", Answer({"n": 9.0})), kept("x", FOUND)), cer=3)
        for part in ("up", "down")
        for arm in ("left", "right")
    )
    failed = Outcome({"part": "up", "method": "left"}, 1, "", "failed")
    answer_columns = {"n": AnswerColumn("x", {"left": "a", "right": "b"}), "m": AnswerColumn("x", {"up": "a"})}
    found = add_answer_columns(Outcomes("", ("part", "method"), (*cells, failed)), answer_columns, "nowhere").cells
    assert [one.result for one in found] == [
        {"cer": 3, "n": 0.5, "m": 0.5},
        {"cer": 3, "n": 2.0, "m": 0.5},
        {"cer": 3, "n": 0.5, "m": None},
        {"cer": 3, "n": 2.0, "m": None},
        None,
    ]
    alone = Outcomes("", ("method",), (cell({"method": "right"}, (kept("x", FOUND),)),))
    assert add_answer_columns(alone, answer_columns, "up").cells[0].result == {"n": 2.0, "m": 0.5}
    assert add_answer_columns(alone, answer_columns, "down").cells[0].result == {"n": 2.0, "m": None}


def test_both_rows_of_table_10_are_of_one_run() -> None:
    """By hand: the whole network at 0.8 in training and 0.6 and 0.4 elsewhere, the other a little below."""
    shares = {"train": (0.8, 0.75), "test": (0.6, 0.6), "robust": (0.4, 0.45)}
    numbers = {f"{of}_{what}": pair[n] for what, pair in shares.items() for n, of in enumerate(("dense", "sparse"))}
    answer = Answer({"parameters": 1000, "parameters_left": 800, **numbers})
    chosen = scaled_table.scale_table("table10", "cpu", seeds=[0])
    digests = {grid_cell.options["method"] for grid_cell in chosen.grid().cells()}
    assert digests == {"lure"}, "one run, since all options are the same"
    arms = [cell({"network": arm}, (kept("redundancy", answer),)) for arm in chosen.table.arms]
    made = compare_with_paper(chosen, Outcomes("", chosen.axes, tuple(arms)))
    full, sparse = ([entry.measured.mean for entry in row.entries] for row in made.rows)
    assert full == pytest.approx([1000, 0.8, 0.6, 0.4, 0.75, 0.5])
    assert sparse == pytest.approx([800, 0.75, 0.6, 0.45, 0.8, 0.6])
    train = made.rows[1].entries[1].against
    assert train is not None
    assert (train.printed, train.measured.comparison.difference) == (pytest.approx(-0.015), pytest.approx(-0.05))
    parameters = made.rows[0].entries[0]
    assert parameters.printed is not None
    assert (parameters.printed.value, parameters.difference) == (11_173_962, None), "of another network"
    _, against = render.sheets(made)
    assert len(against.heads) == 1 + 3 * 3, "ratios and counts are shown and not compared"


# What is compared


@pytest.mark.slow
def test_of_the_corruptions_the_mean_alone_is_judged() -> None:
    chosen = scaled_table.scale_table("figure2", "cpu", seeds=range(8))
    table = chosen.table
    answer = Answer({"mca": 0.25}, [line("accuracy", CORRUPTIONS, SHARES)])
    cells = [
        cell({"corruption": part, "method": arm}, (kept("corruption", answer),), seed)
        for part in chosen.parts
        for arm in table.arms
        for seed in chosen.seeds
    ]
    made = compare_with_paper(chosen, Outcomes("", chosen.axes, tuple(cells)))
    assert len(made.rows) == 120
    shown = {row.part: row.entries[0].measured.mean for row in made.rows if row.arm == "LURE"}
    assert shown.pop("mean") == 0.25
    assert sorted(shown.values()) == pytest.approx(sorted(SHARES)), "each of the 19 stands in one part"
    assert shown["Gaussian blur"] == pytest.approx(SHARES[CORRUPTIONS.index("gaussian_blur")])
    assert shown["JPEG"] == pytest.approx(SHARES[CORRUPTIONS.index("jpeg_compression")])
    judged = [(row.part, row.arm) for row in made.rows if row.entries[0].against is not None]
    assert judged == [("mean", arm) for arm in table.arms if arm != "BL"]
    lettered = {(row.part, row.arm): row.marks for row in made.rows if row.part in ("mean", "fog")}
    for arm in ("RIFLE", "Random init."):
        assert len(lettered["mean", arm]) > len(lettered["fog", arm])


def test_where_nothing_is_compared_there_is_one_block() -> None:
    chosen = scaled_table.scale_table("figure10", "smoke", seeds=[0])
    cells = tuple(cell({"learning rate": arm}, test_accuracy=0.5) for arm in chosen.table.arms)
    (beside,) = render.sheets(compare_with_paper(chosen, Outcomes("", chosen.axes, cells)))
    assert len(beside.rows) == 4


# What is asked


FEW = {"figure2": "corruption:samples=2,severities=1", "table10": "redundancy:samples=8,corrupted=1"}
"""Instead of what takes seconds."""


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ASKING)
def test_figure_queries_are_valid_and_caption_lists_changes(name: str, scale: str) -> None:
    """Against the components themselves: every option that is another than at full is in the caption."""
    asked, papers = (scaled_table.scale_table(name, size).queries for size in (scale, "full"))
    said = scaled_table.scale_table(name, scale).changes_from_paper()
    for label, query in asked.items():
        ours, theirs = (
            dataclasses.asdict(Question.of(OFFERS, one[label].analysis, label=label).analysis)  # type: ignore[call-overload]
            for one in (asked, papers)
        )
        for option in ours:
            if ours[option] != theirs[option]:
                value = parse_spec(query.analysis).options[option]
                own = next(one for one in said if one.startswith(f"{label}: "))
                assert re.search(rf"{option.replace('_', '-')} [^,]+ → {value}(,|$)", own), own
    if scale == "full":
        assert said == ()


@pytest.mark.parametrize("name", ["figure2", "figure3-left", "figure6", "figure7", "table10"])
def test_answers_have_every_number_that_a_figure_takes(name: str) -> None:
    """Of a tiny network on eight images, so that no analysis renames one unnoticed."""
    chosen = scaled_table.scale_table(name, "smoke")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    samples = (torch.rand(8, 1, 8, 8), torch.arange(8) % 4)
    (asked,) = chosen.queries.values()
    answer = forgetkit.analyze(model, FEW.get(name, asked.analysis), test=samples, train=samples, val=samples)
    for key, answer_columns in chosen.table.answer_columns.items():
        for part in chosen.parts:
            for arm in chosen.table.arms:
                assert answer_columns.value(answer, part, arm) is not None, (key, part, arm)


def test_baseline_of_a_run_has_the_same_part_and_seed() -> None:
    chosen = scaled_table.scale_table("figure5", "smoke")
    cells = [
        cell({"setting": part, "method": arm}, seed=seed)
        for part in chosen.parts[:2]
        for arm in chosen.table.arms
        for seed in (0, 1)
    ]
    cells[0] = dataclasses.replace(cells[0], status="failed", result=None)
    runs = FigureRuns(chosen, Outcomes("", chosen.axes, tuple(cells)))
    assert len(runs.cells) == 7
    for one in runs.cells:
        base = runs.baseline(one)
        if (one.arm["setting"], one.seed) == (chosen.parts[0], 0):
            assert base is None, "it failed"
        else:
            assert base is not None
            assert (base.arm, base.seed) == ({**one.arm, "method": "BL"}, one.seed)


def test_what_a_scale_makes_of_an_analysis_in_words() -> None:
    assert (
        scaled_table.scale_table("table10", "smoke").changes_from_paper()[-1]
        == "redundancy: samples all → 100, corrupted 10000 → 20"
    )
    assert scaled_table.scale_table("figure2", "cpu").changes_from_paper()[-1] == "corruption: samples all → 250"


def test_earlier_models_are_kept_only_if_a_table_analyzes_them() -> None:
    assert scaled_table.scale_table("table10", "cpu").keep == "all"
    assert {scaled_table.scale_table(name, "cpu").keep for name in ASKING if name != "table10"} == {"last"}
