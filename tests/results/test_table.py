"""Tables of arms: grids made by hand whose every number is known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.errors import ConfigError, OptionError
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.render import render
from forgetkit.results.statistics import compare_arms, holm, summarize
from forgetkit.results.table import DEFAULT, STANDARD, Column, TableRow, make_table, number

LEVEL = Column("level", "level", lambda result: result["level"], True)
ERRORS = Column("errors", "errors", lambda result: result.get("errors"), False)
COST = Column("cost", "cost", lambda result: result.get("cost"))
SEEDS = range(8)  # two to the seventh: the smallest p is 1/128, enough for six comparisons


def cell(arm: Mapping[str, str], seed: int, status: str = "completed", **result: Any) -> Outcome:
    return Outcome(arm, seed, f"{'-'.join(arm.values())}@{seed}", status, result if status == "completed" else None)


def grid(levels: Mapping[str, Any], baseline: str | None = None) -> Outcomes:
    """An arm per name, with a level (or a whole result, or a status) per seed."""
    cells = []
    for name, by_seed in levels.items():
        for seed, found in enumerate(by_seed):
            arm = {"arm": name}
            if isinstance(found, str):
                cells.append(cell(arm, seed, found))
            elif isinstance(found, dict):
                cells.append(cell(arm, seed, **found))
            else:
                cells.append(cell(arm, seed, level=found))
    return Outcomes("a grid", ("arm",), tuple(cells), None if baseline is None else {"arm": baseline})


def row(table, *labels: str) -> TableRow:
    return next(one for one in table.rows if one.labels == labels)


def bold(table, place: int = 0) -> set[str]:
    return {one.labels[0] for one in table.rows if one.entries[place].best}


def test_means_and_spreads_are_those_of_the_completed_seeds() -> None:
    table = make_table(grid({"a": [1.0, 3.0, "diverged", "missing"], "b": [5.0], "c": ["failed", "failed"]}), [LEVEL])
    assert [one.entries[0].summary for one in table.rows] == [summarize([1.0, 3.0]), summarize([5.0]), summarize([])]


def test_notes_by_hand() -> None:
    table = make_table(
        grid({"a": [1.0, "diverged", 2.0, "missing", "missing"], "b": [1.0], "c": ["failed"], "d": ["failed", 1.0]}),
        [LEVEL],
    )
    assert [one.note for one in table.rows] == [
        "2 of 5 seeds: seed 1 diverged, seeds 3, 4 missing",
        "",
        "0 of 1 seed: seed 0 failed",
        "1 of 2 seeds: seed 0 failed",
    ]


def test_a_number_of_a_diverged_cell_is_not_shown() -> None:
    arm = {"arm": "a"}
    lost = Outcome(arm, 0, "d", "diverged", {"level": 0.1}, "the loss is not finite")
    table = make_table(Outcomes("", ("arm",), (lost, cell(arm, 1, level=0.5))), [LEVEL])
    assert table.rows[0].entries[0].summary == summarize([0.5])
    assert table.rows[0].cells[0].values == (None,)
    assert (table.rows[0].cells[0].reason, table.rows[0].unfinished) == ("the loss is not finite", {"diverged": [0]})


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_missing_number_is_excluded_from_its_own_column_only(nothing) -> None:
    results = [{"level": 1.0, "errors": 3}, {"level": 2.0, "errors": nothing}]
    table = make_table(grid({"a": results}), [LEVEL, ERRORS])
    assert [entry.summary.n for entry in table.rows[0].entries] == [2, 1]
    assert table.rows[0].note == ""


@pytest.mark.parametrize("huge", [1.7e308, -1.7e308, 10**160, 1.1e150])
def test_a_number_too_large_for_statistics_is_none(huge: float) -> None:
    metric = replace(LEVEL, of=lambda result: number(result, "level"))
    table = make_table(grid({"a": [{"level": huge}] * 2, "b": [{"level": -huge}, {"level": 0.0}]}, "b"), [metric])
    assert [one.entries[0].summary for one in table.rows] == [summarize([]), summarize([0.0])]


@given(st.lists(st.floats(-1e150, 1e150), min_size=4, max_size=4))
def test_of_numbers_that_count_every_statistic_is_finite(levels: list[float]) -> None:
    metric = replace(LEVEL, of=lambda result: number(result, "level"))
    by_arm = {"a": levels[:2], "b": levels[2:]}
    table = make_table(grid({arm: [{"level": one} for one in found] for arm, found in by_arm.items()}, "b"), [metric])
    json.loads(render(table, "json"))  # which has none for infinity
    assert all(one.entries[0].summary.n == 2 for one in table.rows)


def test_each_arm_is_compared_with_the_baseline_seed_by_seed() -> None:
    levels = {"a": [0.5, 0.7, 0.9], "b": [0.4, 0.9, 0.6], "c": ["missing", 0.2, 0.3]}
    table = make_table(grid(levels, "a"), [LEVEL])
    assert [one.baseline for one in table.rows] == [True, False, False]
    assert table.baseline.labels == ("a",)
    own, b, c = (one.entries[0].to_baseline for one in table.rows)
    assert own is None
    whole = compare_arms(dict(enumerate(levels["b"])), dict(enumerate(levels["a"])))
    assert b.comparison == replace(whole, low=None, high=None)  # three seeds are too few
    assert c.comparison == replace(compare_arms({1: 0.2, 2: 0.3}, {1: 0.7, 2: 0.9}), low=None, high=None)
    assert (b.adjusted, c.adjusted) == holm([b.comparison.p, c.comparison.p])


def test_p_values_are_corrected_over_all_compared_columns() -> None:
    base = [{"level": 0.5, "errors": 9, "cost": 1.0} for _ in SEEDS]
    good = [{"level": 0.5 + 0.1 * (seed + 1), "errors": 9, "cost": 2.0} for seed in SEEDS]
    table = make_table(grid({"a": base, "b": good}, "a"), [LEVEL, ERRORS, COST])
    level, errors, cost = (entry.to_baseline for entry in row(table, "b").entries)
    assert (level.adjusted, level.verdict) == (2 / 128, "better")
    assert (errors.adjusted, errors.verdict) == (1.0, "not distinguishable")
    assert cost is None
    assert row(table, "b").entries[2].to_best is None
    assert bold(table, 2) == set()


def test_lower_errors_are_better() -> None:
    few, many = [{"errors": 2} for _ in SEEDS], [{"errors": 3} for _ in SEEDS]
    table = make_table(grid({"few": few, "many": many}, "few"), [ERRORS])
    assert row(table, "many").entries[0].to_baseline.verdict == "worse"
    assert bold(table) == {"few"}
    back = make_table(grid({"few": few, "many": many}), [ERRORS], baseline={"arm": "many"})
    assert row(back, "few").entries[0].to_baseline.verdict == "better"


def test_bold_is_the_best_and_what_cannot_be_told_from_it() -> None:
    best = [0.9] * 8
    alike = [0.9 + 0.01 * (-1) ** seed - 0.001 for seed in SEEDS]
    table = make_table(grid({"worse": [0.8] * 8, "best": best, "alike": alike}), [LEVEL])
    assert bold(table) == {"best", "alike"}
    assert row(table, "worse").entries[0].to_best.verdict == "worse"
    assert row(table, "best").entries[0].to_best is None


def test_with_too_few_seeds_only_best_mean_and_ties_are_bold() -> None:
    table = make_table(
        grid({"a": [0.8, 0.9], "b": [0.9, 0.9], "c": [0.85, 0.95], "d": [0.1 + 0.2 + 0.6, 0.9]}), [LEVEL]
    )
    assert bold(table) == {"b", "c", "d"}
    assert row(table, "a").entries[0].to_best.verdict == "too few seeds"


def test_arm_better_than_best_mean_on_common_seeds_is_bold() -> None:
    # Where 'paired' has a seed it is ahead of 'lucky', whose mean is lifted by a seed that 'paired' lost.
    table = make_table(grid({"lucky": [*[0.5] * 8, 9.0], "paired": [*[0.6] * 8, "failed"]}), [LEVEL])
    assert row(table, "paired").entries[0].to_best.verdict == "better"
    assert bold(table) == {"lucky", "paired"}


def test_nothing_is_bold_if_only_one_arm_has_results() -> None:
    assert bold(make_table(grid({"a": [0.5, 0.6], "b": ["missing", "missing"]}), [LEVEL])) == set()


def test_an_arm_without_numbers_has_no_comparison() -> None:
    table = make_table(grid({"a": [0.5] * 8, "b": ["diverged"] * 8, "c": [0.4] * 8}, "a"), [LEVEL])
    lost, worse = row(table, "b").entries[0], row(table, "c").entries[0]
    assert (lost.to_baseline.verdict, lost.to_baseline.adjusted, lost.best) == ("too few seeds", None, False)
    assert (worse.to_baseline.verdict, worse.to_baseline.adjusted) == ("worse", 1 / 128)


def test_a_baseline_without_numbers_leaves_nothing_to_say() -> None:
    table = make_table(grid({"a": ["diverged"] * 8, "b": [0.5] * 8}, "a"), [LEVEL])
    assert row(table, "b").entries[0].to_baseline.verdict == "too few seeds"


def two_axes(order: list[tuple[str, str]]) -> Outcomes:
    levels = {("snip", "full"): 3.0, ("snip", "none"): 1.0, ("fisher", "full"): 4.0, ("fisher", "none"): 2.0}
    cells = tuple(cell({"importance": one, "replay": two}, 0, level=levels[one, two]) for one, two in order)
    return Outcomes("", ("importance", "replay"), cells)


def test_arms_with_equal_leading_labels_are_grouped() -> None:
    mixed = two_axes([("snip", "full"), ("fisher", "full"), ("snip", "none"), ("fisher", "none")])
    table = make_table(mixed, [LEVEL])
    assert [(one.labels, one.repeats) for one in table.rows] == [
        (("snip", "full"), 0),
        (("snip", "none"), 1),
        (("fisher", "full"), 0),
        (("fisher", "none"), 1),
    ]


def test_ordered_by_a_column_rows_name_all_their_values() -> None:
    table = make_table(
        two_axes([("snip", "full"), ("snip", "none"), ("fisher", "full"), ("fisher", "none")]), [LEVEL], None, "level"
    )
    assert [one.entries[0].summary.mean for one in table.rows] == [4.0, 3.0, 2.0, 1.0]
    assert {one.repeats for one in table.rows} == {0}


@pytest.mark.parametrize(("key", "expected"), [("level", "bac"), ("errors", "abc"), ("cost", "abc")])
def test_order_is_best_first_and_what_has_no_number_last(key, expected) -> None:
    results = {
        "c": ["failed"],
        "b": [{"level": 2, "errors": 2, "cost": 2}],
        "a": [{"level": 1, "errors": 1, "cost": 1}],
    }
    table = make_table(grid(results), [LEVEL, ERRORS, COST], order=key)
    assert "".join(one.labels[0] for one in table.rows) == expected


@given(st.lists(st.lists(st.integers(0, 5), min_size=7, max_size=7), min_size=1, max_size=4))
def test_order_changes_the_order_alone(levels) -> None:
    made = grid({str(arm): values for arm, values in enumerate(levels)}, "0")
    plain, ordered = make_table(made, [LEVEL]), make_table(made, [LEVEL], order="level")
    assert {one.labels: (one.cells, one.entries, one.baseline) for one in plain.rows} == {
        one.labels: (one.cells, one.entries, one.baseline) for one in ordered.rows
    }


def test_standard_columns_read_a_result() -> None:
    result = {
        "test_accuracy": 0.9,
        "cer": 120,
        "generalization_gap": None,
        "mean_anytime_error": 0.2,
        "samples_seen": 5000,
        "forward_passes": 7000,
        "backward_passes": 6000,
        "seconds": 1.5,
        "peak_memory_bytes": 2**30,
    }
    assert [column.of(result) for column in STANDARD] == [0.9, 120, None, 0.2, 5000, 7000, 6000, 1.5, 2**30]
    assert [column.key for column in STANDARD] == list(result)
    assert [column.higher_is_better for column in STANDARD] == [True, *[False] * 3, *[None] * 5]
    assert [column.key for column in DEFAULT] == ["test_accuracy", "cer", "generalization_gap", "samples_seen"]
    assert all(column.of({}) is None for column in STANDARD)


def test_mistakes_are_said() -> None:
    made = grid({"a": [1.0], "b": [2.0]})
    with pytest.raises(OptionError, match="no column 'cer' to be ordered by"):
        make_table(made, [LEVEL], order="cer")
    with pytest.raises(OptionError, match="column 'level' is asked for twice"):
        make_table(made, [LEVEL, LEVEL])
    with pytest.raises(OptionError, match="the baseline arm=c is no arm; did you mean"):
        make_table(made, [LEVEL], baseline={"arm": "c"})
    with pytest.raises(OptionError, match="the baseline replay=a is no arm"):
        make_table(made, [LEVEL], baseline={"replay": "a"})
    twice = (cell({"arm": "a"}, 1, level=1.0), cell({"arm": "a"}, 1, level=2.0))
    with pytest.raises(ConfigError, match="arm=a has two cells of one seed"):
        make_table(Outcomes("", ("arm",), twice), [LEVEL])


def test_a_grid_without_cells_is_a_table_without_rows() -> None:
    assert make_table(Outcomes("", ("arm",), ())).rows == ()


def test_an_arm_with_two_names_counts_once() -> None:
    """A folder that an older version made may hold them."""
    base, better = [float(seed) for seed in SEEDS], [seed + 1.0 for seed in SEEDS]
    plain = grid({"base": base, "a": better}, "base")
    again = [replace(one, arm={"arm": "a again"}) for one in plain.cells if one.arm["arm"] == "a"]
    twin = [replace(one, arm={"arm": "base again"}) for one in plain.cells if one.arm["arm"] == "base"]
    table = make_table(replace(plain, cells=(*plain.cells, *again, *twin)), [LEVEL])
    alone = row(make_table(plain, [LEVEL]), "a").entries[0]
    for name in ("a", "a again"):
        entry = row(table, name).entries[0]
        assert (entry.to_baseline, entry.to_best, entry.best) == (alone.to_baseline, alone.to_best, alone.best)
    assert row(table, "base again").entries[0].to_baseline is None
    text = render(table, "markdown")
    assert "arm=a again is the same runs as arm=a: compared once" in text
    assert "Holm-corrected over 1 comparison," in text
    content = json.loads(render(table, "json"))
    assert [one["same_runs_as"] for one in content["rows"]] == [None, None, {"arm": "a"}, {"arm": "base"}]


def test_auto_and_what_it_came_to_are_one_arm() -> None:
    def cells(asked: str, came_to: str) -> list[Outcome]:
        config = {"precision": came_to, "lr": 0.1, "name": asked, "threads": len(asked)}
        found = {"config": config, "versions": {"plugins": {}}}
        arm = {"precision": asked}
        return [cell(arm, seed, level=float(seed), **{**found, "config": {**config, "seed": seed}}) for seed in SEEDS]

    every = (*cells("auto", "fp32"), *cells("fp32", "fp32"), *cells("bf16", "bf16"))
    table = make_table(Outcomes("", ("precision",), every, {"precision": "auto"}), [LEVEL])
    assert [table.duplicate_of(one) is not None for one in table.rows] == [False, True, False]
    assert [one.entries[0].to_baseline is None for one in table.rows] == [True, True, False]


def bounded(levels: Mapping[str, list[float]], samples: int = 50, batches: int = 2) -> Outcomes:
    """Runs whose errors are out of ``batches`` times ``samples``, as a result has them."""
    rows = [{"test_samples": samples} for _ in range(batches)]
    found = {
        name: [
            {
                "test_accuracy": 1 - level,
                "cer": round(level * samples * batches),
                "generalization_gap": 2 * level - 1,
                "mean_anytime_error": level,
                "mega_batches": rows,
            }
            for level in own
        ]
        for name, own in levels.items()
    }
    return grid(found, "base")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=11, max_size=12))
def test_no_interval_leaves_what_is_possible(pairs) -> None:
    """Eleven seeds are enough for the four columns, so that intervals are shown."""
    levels = {"base": [a for a, _ in pairs], "other": [b for _, b in pairs]}
    keys = ("test_accuracy", "cer", "generalization_gap", "mean_anytime_error")
    most = {"test_accuracy": 1, "cer": 100, "generalization_gap": 2, "mean_anytime_error": 1}
    table = make_table(bounded(levels), STANDARD[:4])
    for key, entry in zip(keys, row(table, "other").entries, strict=True):
        for judged in (entry.to_baseline, entry.to_best):
            if judged is not None and judged.comparison.low is not None:
                assert judged.verdict != "too few seeds"
                assert -most[key] <= judged.comparison.low <= judged.comparison.high <= most[key]


def test_error_bounds_depend_on_the_stream_of_each_arm() -> None:
    long, short = bounded({"base": [0.9, 0.1] * 4}, batches=2), bounded({"other": [0.9, 0.1] * 4}, batches=1)
    both = replace(long, cells=(*long.cells, *short.cells))
    entries = [one.entries[0] for one in make_table(both, STANDARD[1:2]).rows]
    assert [entry.bounds for entry in entries] == [(0, 100), (0, 50)]


@pytest.mark.parametrize("form", ["markdown", "latex", "json", "html", "csv"])
def test_no_format_shows_an_interval_where_seeds_are_too_few(form) -> None:
    two = make_table(bounded({"base": [0.9, 0.56], "other": [0.5, 0.5]}), STANDARD[:2])
    text = render(two, form)
    assert "interval" not in text
    if form == "json":
        judged = [one["to_baseline"] for one in json.loads(text)["rows"][1]["entries"].values()]
        assert [(one["low"], one["high"], one["verdict"]) for one in judged] == [(None, None, "too few seeds")] * 2
    elif form != "csv":
        assert not [line for line in text.splitlines() if re.search(r"[+-]\d[\d.]* *(\\?\[|\{\[\})", line)]


def test_an_interval_narrower_than_its_digits_is_shown_with_more() -> None:
    """Eight differences from 0.56 to 0.5607 points: never [0.56, 0.56]."""
    levels = {"base": [0.5] * 8, "a": [0.5056 + 1e-6 * seed for seed in range(8)]}
    fraction = replace(LEVEL, unit="fraction")
    text = render(make_table(grid(levels, "base"), [fraction]), "markdown")
    low, high = re.search(r"\[([\d.]+), ([\d.]+)\\\]", text).groups()
    assert float(low) < float(high)
    found = scipy.stats.t.interval(0.95, 7, 0.56035, np.std([1e-4 * seed for seed in range(8)], ddof=1) / 8**0.5)
    assert (float(low), float(high)) == pytest.approx(found, abs=2e-5)
