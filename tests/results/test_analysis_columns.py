"""Answers as columns, pictures and sections of reports: numbers against loops, what is drawn against the numbers."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import fake_outcomes
from helpers.odd_outcomes import HOSTILE, made, stream
from helpers.report_page import Page, read
from hypothesis import given, settings
from hypothesis import strategies as st

from forgetkit.analysis import answers
from forgetkit.analysis.answers import StoredAnswer
from forgetkit.contracts import Answer, Chart, Measure, Series
from forgetkit.errors import OptionError
from forgetkit.results import columns, plots
from forgetkit.results.cell_store import CellStore
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.plots import charts, layout, styles
from forgetkit.results.render import render
from forgetkit.results.render.formatting import one_line
from forgetkit.results.report import render_page, single_run
from forgetkit.results.table import make_table
from forgetkit.storage import write_with_digest

CORRUPTIONS = [f"corruption_number_{place}" for place in range(19)]


def kept(answer: Answer, label: str = "calibration", **named: object) -> StoredAnswer:
    question = {"analysis": f"{label}:bins=15", "summary": "How sure it is.", "mega_batch": 4, **named}
    return StoredAnswer(label, answer=answer, **question)


def asked(arms: dict[str, list[Answer]], label: str = "calibration", common: tuple[StoredAnswer, ...] = ()) -> Outcomes:
    """An arm by its name, an answer for each of its seeds."""
    outcomes = made({arm: [stream(0.5, 0.75)] * len(own) for arm, own in arms.items()})
    found = [kept(one, label) for own in arms.values() for one in own]
    cells = tuple(replace(cell, answers=(one,)) for cell, one in zip(outcomes.cells, found, strict=True))
    return replace(outcomes, cells=cells, answers=common)


def lines(*series: Series, **options: object) -> Answer:
    usual = {"name": "curve", "caption": "A curve", "x_label": "strength", "y_label": "accuracy", "unit": "fraction"}
    return Answer(charts=[Chart(**{**usual, **options}, series=series)])


def only(outcomes: Outcomes) -> layout.ChartLayout:
    (found,) = layout.arm_layouts(outcomes).values()
    return found


def drawn(outcomes: Outcomes):
    (one,) = layout.arm_layouts(outcomes).values()
    return charts.draw(one, styles.arm_styles(outcomes))


def points(axes) -> list[tuple[tuple[float, float], ...]]:
    """What has markers, in the order in which it was drawn."""
    return [
        tuple((round(float(x), 9), round(float(y), 9)) for x, y in line.get_xydata())
        for line in axes.lines
        if line.get_marker() not in ("None", "", None)
    ]


# Columns


def numbered(ece: float, nll: float | None = 0.5) -> Answer:
    return Answer({"ece": Measure(ece, "lower", "fraction"), "n-l-l" if nll is None else "nll": Measure(nll), "acc": 1})


def test_answer_numbers_are_columns_with_direction_and_unit():
    outcomes = asked({"a": [numbered(0.25), numbered(0.75)], "b": [numbered(0.1)]}, "cal-ib")
    ece, nll = columns.parse_columns("cal-ib-ece,cal_ib_nll", outcomes)
    assert (ece.key, ece.title, ece.higher_is_better, ece.unit) == ("cal_ib_ece", "cal ib ece", False, "fraction")
    assert (nll.higher_is_better, nll.unit) == (None, "number")
    table = make_table(outcomes, (ece, nll), {"method": "b"})
    first, second = (row.entries[0].summary for row in table.rows)
    assert (first.mean, first.std, second.mean) == (0.5, pytest.approx(0.5 / math.sqrt(2)), 0.1)
    assert [row.entries[0].best for row in table.rows] == [False, True]
    assert columns.parse_columns("cal_ib_nll:lower", outcomes)[0].higher_is_better is False


def test_a_result_comes_before_an_answer_of_the_same_name():
    clash = Answer({"accuracy": Measure(0.9, "lower", "count"), "own": 2.0})
    outcomes = asked({"a": [clash]}, "test")
    assert [column.key for column in columns.answer_columns(outcomes)] == ["test_own"]
    (accuracy,) = columns.parse_columns("test_accuracy", outcomes)
    assert accuracy.higher_is_better
    assert make_table(outcomes, (accuracy,)).rows[0].entries[0].summary.mean == 0.75


def test_cells_without_the_answer_have_no_number():
    outcomes = asked({"a": [numbered(0.25), numbered(0.5)], "b": [numbered(0.1)]})
    outcomes = replace(outcomes, cells=(replace(outcomes.cells[0], answers=()), *outcomes.cells[1:]))
    table = make_table(outcomes, columns.parse_columns("calibration_ece", outcomes))
    assert [row.entries[0].summary.n for row in table.rows] == [1, 1]


def test_every_format_has_them():
    outcomes = asked({"a": [numbered(0.25)], "b": [numbered(0.125)]})
    table = make_table(outcomes, columns.parse_columns("calibration_ece", outcomes))
    assert "| a | 25.00 |" in render(table, "markdown")
    assert "calibration ece (%) ↓" in render(table, "html")
    assert "25.00" in render(table, "latex")
    (column,) = json.loads(render(table, "json"))["columns"]
    assert (column["unit"], column["higher_is_better"]) == ("fraction", False)
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert [float(row["calibration_ece"]) for row in rows] == [0.25, 0.125]


def test_a_column_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(OptionError, match="calibration_ece"):
        columns.parse_columns("calibration_ecc", asked({"a": [numbered(0.25)]}))


@pytest.mark.parametrize("asked_for", ["ece", "ECE", "ece:lower", "cer,ece"])
def test_a_number_without_its_analysis_is_told_with_it(asked_for):
    outcomes = asked({"a": [numbered(0.25)]})
    with pytest.raises(OptionError, match=r"no column '\w+'; did you mean calibration_ece\?$"):
        columns.parse_columns(asked_for, outcomes)


def test_meaning_of_answer_numbers_is_shown_below_their_table():
    """And a stranger's numbers as well as our own: it comes with the answer."""
    answer = Answer({"own": Measure(0.5, title="my <own>", meaning="what I count", bounds=(0, 1)), "bare": 1.0})
    outcomes = asked({"a": [answer], "b": [answer]}, "stranger")
    table = make_table(outcomes, columns.answer_columns(outcomes))
    assert table.columns[0].bounds({}) == (0, 1)
    assert table.columns[1].bounds({}) == (None, None)
    for form, line in (("markdown", "my \\<own\\>: what I count."), ("html", "my &lt;own&gt;: what I count.")):
        assert line in render(table, form)
    assert json.loads(render(table, "json"))["legend"][0] == "my <own>: what I count."
    assert answers.answer_from_json(answers.answer_to_json(answer)).numbers["own"] == answer.numbers["own"]
    (old,) = (one for key, one in answers.answer_to_json(answer)["numbers"].items() if key == "own")
    del old["meaning"], old["bounds"]  # as an older version wrote it
    assert (
        answers.answer_from_json({"numbers": {"own": old}, "charts": [], "details": {}, "remarks": []})
        .numbers["own"]
        .value
        == 0.5
    )


# On disk

DIGEST = "0123456789abcdef" * 4
QUESTION = {"summary": "S.", "mega_batch": 3, "seed": 0, "versions": {}}


def folder(path) -> CellStore:
    """The folder of an ablation with one cell that was asked, and one answer about all cells."""
    pool = CellStore(path)
    cell = pool.directory(DIGEST)
    cell.mkdir(parents=True)
    write_with_digest(cell / "result.json", fake_outcomes.result(0, {"method": "lure"}))
    pool.seal(DIGEST)
    (path / "grids").mkdir()
    note = {"title": "t", "axes": ["method"], "baseline": None, "command": ""}
    write_with_digest(
        path / "grids" / "g.json",
        {"schema": 2, **note, "cells": [{"arm": {"method": "lure"}, "seed": 0, "digest": DIGEST}]},
    )
    pool.answers_folder("g").mkdir()
    for place, label in ((cell, "calibration"), (pool.answers_folder("g"), "sensitivity")):
        question = {"analysis": label, **QUESTION}
        answers.store_answer(place, label, question, answers.answer_to_json(numbered(0.25)))
    return pool


def test_answers_are_read_with_the_cells_and_of_the_grid(tmp_path):
    pool = folder(tmp_path)
    outcomes = pool.outcomes()
    assert pool.grids() == ("g",)
    assert [(one.label, one.mega_batch) for one in outcomes.cells[0].answers] == [("calibration", 3)]
    assert [one.label for one in outcomes.answers] == ["sensitivity"]
    assert outcomes.cells[0].numbers["calibration_ece"] == 0.25


@pytest.mark.parametrize("damage", ["cut", "chart", "value"])
def test_a_damaged_answer_is_said_in_a_line_and_the_others_stand(tmp_path, caplog, damage):
    pool = folder(tmp_path)
    file = pool.directory(DIGEST) / "analyses" / "attack.json"
    chart = answers.answer_to_json(lines(Series("s", [1.0], [0.5])))
    answers.store_answer(file.parents[1], "attack", {"analysis": "attack", **QUESTION}, chart)
    assert len(pool.outcomes().cells[0].answers) == 2
    content = json.loads(file.read_text())
    del content["sha256"]
    if damage == "cut":
        file.write_text(file.read_text()[:-9])
    elif damage == "chart":  # sealed, and it would be written somewhere else
        content["charts"][0]["name"] = "../../elsewhere"
        write_with_digest(file, content)
    else:
        content["charts"][0]["series"][0]["y"] = [0.5, 0.5]
        write_with_digest(file, content)
    with caplog.at_level(logging.WARNING, "forgetkit"):
        outcomes = pool.outcomes()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "attack.json" in said
    assert "forgetkit analyze makes it again" in said
    assert "\n" not in said
    assert [one.label for one in outcomes.cells[0].answers] == ["calibration"]


@pytest.mark.slow
def test_a_run_by_itself_has_its_answers(tmp_path):
    write_with_digest(tmp_path / "result.json", fake_outcomes.result(3, {"importance": "snip"}))
    chart = lines(Series("s", [1.0, 2.0], [0.5, None]))
    question = {**QUESTION, "analysis": "attack:steps=3", "mega_batch": 2}
    answers.store_answer(tmp_path, "attack", question, answers.answer_to_json(chart))
    outcomes = single_run.single_run_outcomes(tmp_path)
    shown = read(outcomes)
    text = " ".join(shown.texts["analyses"])
    assert "Asked of the run, as it stood after mega-batch 2." in text
    assert "attack:steps=3" in text
    assert "A curve." in text
    assert sum(tag == "svg" for tag, _ in shown.elements) == 5


# Laid over each other


@given(
    st.lists(
        st.dictionaries(st.integers(0, 6), st.none() | st.floats(-1, 1), min_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_an_average_is_that_of_a_loop(seeds):
    found = [Series("s", list(own), list(own.values())) for own in seeds]
    places, means, deviations = layout.average_series(found)
    assert set(places) == {place for own in seeds for place in own}
    for place, mean, deviation in zip(places, means, deviations, strict=True):
        values = [own[place] for own in seeds if own.get(place) is not None]
        assert mean == (pytest.approx(sum(values) / len(values)) if values else None)
        assert deviation == (pytest.approx(np.std(values, ddof=1), abs=1e-12) if len(values) > 1 else None)


def test_average_series_keeps_single_spread_and_category_order():
    one = Series("s", ["b", "a"], [1.0, 2.0], [0.5, None])
    assert layout.average_series([one]) == (("b", "a"), [1.0, 2.0], [0.5, None])
    places, means, deviations = layout.average_series([one, Series("s", ["b", "c"], [3.0, 4.0])])
    assert (places, means) == (("b", "a", "c"), [2.0, 2.0, 4.0])
    assert deviations == [pytest.approx(math.sqrt(2)), None, None]


def many(count: int, arm: float = 0.0) -> Answer:
    return lines(*(Series(f"s{place}", [1.0, 2.0], [0.1 * place + arm, 0.2]) for place in range(count)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("series", "arms", "panels", "styled_by"),
    [
        (1, 1, [("", 1)], "nothing"),
        (3, 1, [("", 3)], "series"),
        (1, 2, [("", 2)], "arms"),
        (6, 2, [(f"s{place}", 2) for place in range(6)], "arms"),
        (7, 2, [("a0", 7), ("a1", 7)], "series"),
    ],
)
def test_panels_are_by_series_while_they_are_few_and_then_by_arm(series, arms, panels, styled_by):
    outcomes = asked({f"a{arm}": [many(series, arm)] for arm in range(arms)})
    found = only(outcomes)
    assert [(panel.title, len(panel.lines)) for panel in found.panels] == panels
    assert found.styled_by == styled_by
    figure = drawn(outcomes)
    assert [(axes.get_title(), len(points(axes))) for axes in figure.axes] == panels


def test_what_there_is_no_room_for_is_said():
    outcomes = asked({f"a{arm}": [many(30, arm)] for arm in range(14)})
    found = only(outcomes)
    assert (len(found.panels), len(found.panels[0].lines)) == (layout.PANELS, layout.LINES)
    assert found.caption == "A curve. 2 of 14 panels are left out. 10 of 30 series are left out."


def test_caption_explains_the_spread_of_a_single_seed():
    own, bare = (lines(Series("s", [1, 2], [0.5, 0.25], spread)) for spread in ([0.1, 0.1], None))
    said = "An arm with one seed has the spread that the analysis gave."
    for arms, expected in (([own, own], own), True), (([own, own], bare), False), (([own], own), False):
        several, single = arms
        assert (said in only(asked({"several": several, "single": [single]})).caption) is expected


def test_panel_is_titled_with_its_arm_unless_there_is_one_arm():
    heat = {"kind": "heat"}
    one = lines(Series("r", [1.0, 2.0], [0.1, 0.2]), **heat)
    assert [panel.title for panel in only(asked({"a": [one]})).panels] == [""]
    outcomes = asked({"a": [one], "b": [one]})
    outcomes = replace(outcomes, cells=(outcomes.cells[0], replace(outcomes.cells[1], answers=())))
    assert [panel.title for panel in only(outcomes).panels] == ["a"]


# Drawn


def test_lines_are_drawn_at_the_means_in_a_band_with_gaps():
    first = lines(Series("s", [1.0, 2.0, 3.0], [0.5, None, 0.25]))
    second = lines(Series("s", [1.0, 2.0, 3.0], [0.7, None, 0.25]))
    figure = drawn(asked({"one": [first], "two": [first, second]}))
    (axes,) = figure.axes
    assert points(axes) == [((1, 50), (3, 25)), ((1, 60), (3, 25))]
    whole = [line.get_ydata() for line in axes.lines if line.get_marker() in ("None", "")]
    assert all(np.isnan(y[1]) for y in whole)
    band, _ = axes.collections
    ends = {round(y, 6) for path in band.get_paths() for x, y in path.vertices if x == 1}
    half = 100 * np.std([0.5, 0.7], ddof=1)
    assert ends == {round(60 - half, 6), round(60 + half, 6)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("strength", "accuracy (%)")


def test_a_deviation_that_no_band_can_show_is_a_line_of_its_own():
    """A point whose neighbours are missing, as of bins that hold samples in few of an arm's runs."""
    band = Series("s", [1, 2, 4, 8, 9], [0.5, None, 0.25, None, 0.125], [0.1, None, 0.05, None, None])
    (axes,) = drawn(asked({"a": [lines(band)]})).axes
    (bars,) = axes.containers
    shown = [[tuple(end) for end in segment] for segment in bars.lines[2][0].get_segments()]
    assert [x for (x, _), _ in shown] == [1, 4]
    assert np.allclose([y for segment in shown for _, y in segment], [40, 60, 20, 30])
    joined = Series("s", [1, 2, 4], [0.5, 0.5, 0.25], [0.1, 0.1, 0.05])
    assert not drawn(asked({"a": [lines(joined)]})).axes[0].containers


def test_arms_are_drawn_over_their_own_places():
    wide, narrow = (lines(Series("s", list(x), [0.5] * len(x))) for x in ((1.0, 2.0, 8.0), (4.0,)))
    (axes,) = drawn(asked({"wide": [wide], "narrow": [narrow]})).axes
    assert points(axes) == [((1, 50), (2, 50), (8, 50)), ((4, 50),)]


def test_a_logarithmic_axis_keeps_zero():
    (axes,) = drawn(asked({"a": [lines(Series("s", [0.0, 0.01, 0.1, 1.0], [1, 1, 1, 1.0]), logarithmic=True)]})).axes
    assert axes.get_xscale() == "symlog"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.01", "0.1", "1"]
    assert list(axes.get_xticks()) == [0.0, 0.01, 0.1, 1.0]
    shown = axes.transData.transform([(x, 0) for x in (0.0, 0.01, 0.1, 1.0)])[:, 0]
    assert (np.diff(shown) > 10).all()
    (axes,) = drawn(asked({"a": [lines(Series("s", [0.01, 1.0], [1, 1.0]), logarithmic=True)]})).axes
    assert axes.get_xscale() == "log"


def test_tick_labels_on_a_logarithmic_axis_do_not_overlap():
    places = [place / 255 for place in (0, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 16)]
    figure = drawn(asked({"a": [lines(Series("s", places, [0.5] * 12), logarithmic=True)]}))
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) >= 5
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("places", [[0.0, 5e-324], [-1e32, 2.7e-250], [0.0, 1e-149, 1e149]])
def test_axis_with_too_many_decades_for_floats_is_linear(places):
    (axes,) = drawn(asked({"a": [lines(Series("s", places, [1.0] * len(places)), logarithmic=True)]})).axes
    assert axes.get_xscale() == "linear"


def test_a_diagonal_is_drawn_where_both_axes_are_in_per_cent():
    (axes,) = drawn(asked({"a": [lines(Series("s", [0.25, 0.5], [0.5, 0.75]), diagonal=True)]})).axes
    assert points(axes) == [((25, 50), (50, 75))]
    assert list(axes.lines[0].get_xdata()) == list(axes.lines[0].get_ydata()) == [0, 100]
    assert axes.get_xlabel() == "strength (%)"


def test_bars_start_at_zero_and_are_horizontal_for_long_names():
    answer = lines(Series("s", CORRUPTIONS, [0.01 * place for place in range(19)]), kind="bars")
    (axes,) = drawn(asked({"a": [answer]})).axes
    assert [round(bar.get_width(), 9) for bar in axes.patches] == list(range(19))
    assert {bar.get_x() for bar in axes.patches} == {0}
    assert [label.get_text() for label in axes.get_yticklabels()] == CORRUPTIONS
    assert axes.yaxis_inverted()
    (axes,) = drawn(asked({"a": [lines(Series("s", ["x", "y"], [0.5, 0.25]), kind="bars")]})).axes
    assert [bar.get_height() for bar in axes.patches] == [50, 25]


def test_bars_of_several_arms_become_points_in_category_rows():
    def answer(value: float) -> Answer:
        return lines(Series("s", CORRUPTIONS, [value] * 18 + [None]), kind="bars")

    figure = drawn(asked({f"a{arm}": [answer(0.1 * arm), answer(0.1 * arm)] for arm in range(6)}))
    (axes,) = figure.axes
    found = points(axes)
    assert [len(one) for one in found] == [18] * 6
    for arm, one in enumerate(found):
        assert {x for x, _ in one} == {round(10.0 * arm, 9)}
        assert [round(y) for _, y in one] == list(range(18))
    assert len({one[0][1] for one in found}) == 6
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(below.y1 <= above.y0 for above, below in itertools.pairwise(boxes))
    assert figure.get_figwidth() == plots.WIDTH


def test_deviations_of_points_are_as_long_as_they_are():
    found = [lines(Series("s", ["x", "y"], [value, 0.5]), kind="bars") for value in (0.2, 0.4)]
    (axes,) = drawn(asked({"a": found, "b": found})).axes
    ends = {tuple(round(y, 6) for _, y in path.vertices) for one in axes.collections for path in one.get_paths()}
    half = 100 * np.std([0.2, 0.4], ddof=1)
    assert (round(30 - half, 6), round(30 + half, 6)) in ends


def test_a_map_for_each_arm_has_the_colours_of_all():
    def answer(low: float) -> Answer:
        return lines(Series("r1", ["c1", "c2"], [low, 0.5]), Series("r2", ["c1", "c3"], [None, 1.0]), kind="heat")

    figure = drawn(asked({"a": [answer(0.0)], "b": [answer(0.25), answer(0.75)]}))
    first, second, bar = figure.axes
    for axes, low in ((first, 0.0), (second, 50.0)):
        (field,) = axes.collections
        values = field.get_array().filled(np.nan).reshape(2, 3)
        np.testing.assert_array_equal(values, [[low, 50, np.nan], [np.nan, np.nan, 100]])
        assert field.get_clim() == (0, 100)
    assert bar.get_xlabel() == "curve (%)"
    assert [text.get_text() for text in first.texts] == ["0.0", "50.0", "100.0"]


def figured(*rows: list[float], arms: int = 1) -> set[str]:
    heat = lines(*(Series(str(r), list(range(len(row))), row) for r, row in enumerate(rows)), kind="heat", unit="count")
    return {text.get_text() for text in drawn(asked({f"arm {a}": [heat] for a in range(arms)})).axes[0].texts}


@pytest.mark.slow
def test_heat_map_counts_are_whole_and_left_out_if_they_overlap():
    assert figured([11760.0, 9622.0], [12000.0, 999.5]) == {"11,760", "9,622", "12,000", "1,000"}
    assert figured([2.5e6, 1.0]) == {"2.5e+06", "1"}
    assert len(figured([100.0 + place for place in range(8)])) == 8
    assert len(figured([10.0 + place for place in range(4)], arms=2)) == 4
    assert not figured([100.0 + place for place in range(8)], arms=2)


def test_axes_show_numbers_as_they_are_however_close():
    for kind in ("heat", "lines"):
        figure = drawn(asked({"a": [lines(Series("s", [1, 2], [11760.0, 11767.0]), kind=kind, unit="count")]}))
        figure.draw_without_rendering()
        axes = figure.axes[-1]
        assert not any(axis.get_offset_text().get_text() for axis in (axes.xaxis, axes.yaxis))


@pytest.mark.slow
def test_the_maps_of_a_common_answer_share_their_colours():
    maps = [
        replace(lines(Series("r", [1.0, 2.0], values), kind="heat").charts[0], name=name)
        for name, values in (("one", [0.2, 0.4]), ("two", [0.6, None]))
    ]
    found = plots.draw_answer("sensitivity", Answer(charts=maps), common=True)
    assert list(found) == ["sensitivity.all.one", "sensitivity.all.two"]
    assert {figure.axes[0].collections[0].get_clim() for figure in found.values()} == {(20, 60)}
    assert list(plots.draw_answer("overlap", Answer(charts=maps))) == ["overlap.one", "overlap.two"]


def test_a_chart_without_a_point_is_no_picture():
    empty = lines(Series("s", [1.0], [None]), Series("t", [], []))
    assert plots.draw_answer("a", empty) == {}
    assert layout.arm_layouts(asked({"a": [empty], "b": [empty]})) == {}


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
places = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5)


@st.composite
def charts_of_all_kinds(draw):
    series = []
    for place in range(draw(st.integers(0, 3))):
        x = draw(places | st.lists(st.text(max_size=30), max_size=5))
        sides = st.lists(numbers, min_size=len(x), max_size=len(x))
        series.append(Series(f"{HOSTILE} {place}", x, draw(sides), draw(st.none() | sides)))
    kind = draw(st.sampled_from(["lines", "bars", "heat"]))
    unit = draw(st.sampled_from(["fraction", "count", "bytes", "number"]))
    return Chart(
        "odd",
        HOSTILE,
        HOSTILE,
        HOSTILE,
        series,
        kind,
        unit,
        logarithmic=draw(st.booleans()),
        diagonal=draw(st.booleans()),
    )


@pytest.mark.slow
@given(st.lists(charts_of_all_kinds(), min_size=1, max_size=3))
@settings(max_examples=10)
def test_whatever_an_answer_may_hold_is_drawn(found):
    answers_of = [Answer(charts=[chart]) for chart in found]
    outcomes = asked({"a": answers_of[:2], "b": answers_of[2:]} if len(found) > 2 else {"a": answers_of})
    for name, one in layout.arm_layouts(outcomes).items():
        ElementTree.fromstring(plots.svg(charts.draw(one, styles.arm_styles(outcomes)), name))


# In the report


def reported(**options: object) -> Outcomes:
    def answer(seed: float) -> Answer:
        one = lines(Series("s", [1.0, 2.0], [0.5, 0.25 + seed]))
        return replace(
            one, numbers={"ece": Measure(0.1 + seed, "lower", "fraction")}, remarks=["of 1000 samples", f"{seed}"]
        )

    common = replace(
        lines(Series("r", [1.0], [0.5]), kind="heat"), numbers={"range": Measure(0.125, "lower", "fraction")}
    )
    return asked({"a": [answer(0.0), answer(0.2)], "b": [answer(0.1)]}, common=(kept(common, **options),))


@pytest.mark.slow
def test_a_section_has_numbers_remarks_and_pictures():
    outcomes = reported()
    shown = Page(render_page(outcomes, make_table(outcomes, baseline={"method": "b"}), plots.draw_pictures(outcomes)))
    sections = [attributes["id"] for tag, attributes in shown.elements if tag == "section"]
    assert sections == ["results", "pictures", "analyses", "configuration", "overrides", "provenance"]
    texts = shown.texts["analyses"]
    text = " ".join(texts)
    assert texts[:3] == ["Analyses", "calibration", "How sure it is."]
    assert "Asked of 3 of 3 finished runs and of all runs together, as they stood after mega-batch 4." in text
    assert "calibration:bins=15" in text
    assert "ece (%) ↓" in texts
    assert "20.00 ± 14.14" in texts
    assert "Difference to method=b" in texts
    assert texts.count("of 1000 samples") == 1
    assert "0.2 (1 of 3 runs)" in texts
    assert texts[texts.index("range (%) ↓") + 1] == "12.50"
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert sum(tag == "svg" for tag, _ in shown.elements) == 3 + 2
    assert "The mean over seeds, in a band of one standard deviation either way." in text


@pytest.mark.slow
def test_page_without_answers_or_matplotlib_has_no_analysis_plot():
    assert "analyses" not in read(made({"a": [stream(0.5)]})).texts
    shown = read(reported(), drawn=False)
    assert "ece (%) ↓" in shown.texts["analyses"]
    assert not any(tag == "figure" for tag, _ in shown.elements)


def test_a_deviation_below_zero_is_none():
    odd = lines(Series("s", ["a", "b"], [0.5, 0.5], [-0.1, 0.1]), kind="bars")
    assert only(asked({"a": [odd]})).panels[0].lines[0].spread == (None, 0.1)
    assert plots.draw_answer("a", odd)


def test_many_remarks_are_cut():
    outcomes = asked({"a": [Answer(remarks=[f"remark {place}" for place in range(40)])]})
    texts = read(outcomes, drawn=False).texts["analyses"]
    assert sum(text.startswith("remark ") for text in texts) == 12
    assert "and 28 more, in the answers themselves" in texts


@pytest.mark.slow
def test_what_analyses_have_written_is_text():
    answer = Answer(
        numbers={"ece": Measure(0.5)},
        charts=lines(Series(HOSTILE, [HOSTILE], [0.5]), caption=HOSTILE, x_label=HOSTILE, y_label=HOSTILE).charts,
        remarks=[HOSTILE],
    )
    hostile = kept(answer, HOSTILE, summary=HOSTILE, analysis=HOSTILE)
    cell = Outcome({"method": HOSTILE}, 0, "", "completed", stream(0.5), "", (hostile,))
    shown = read(Outcomes("t", ("method",), (cell,), answers=(hostile,)))
    assert [tag for tag, _ in shown.elements if tag == "script"] == ["script"]
    assert not any(key.startswith("on") or key == "style" for _, attributes in shown.elements for key in attributes)
    assert sum(one_line(HOSTILE) in text for text in shown.texts["analyses"]) >= 5


@pytest.mark.slow
def test_the_same_answers_are_the_same_bytes():
    texts = []
    for _ in range(2):
        outcomes = reported()
        texts.append(render_page(outcomes, make_table(outcomes), plots.draw_pictures(outcomes)))
    assert texts[0] == texts[1]


def test_values_that_are_all_zero_stand_on_the_axis() -> None:
    series = (Series("dormant", (1, 2, 3), (0.0, 0.0, 0.0)),)
    answer = Answer({}, (Chart("dormant", "Dormant units.", "mega-batch", "share", series, unit="fraction"),))
    (figure,) = plots.draw_answer("plasticity", answer).values()
    assert figure.axes[0].get_ylim() == (0.0, 1.0)
