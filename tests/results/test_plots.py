"""Pictures: their numbers against hand-computed ones, what is drawn against the numbers, the files read back."""

from __future__ import annotations

import itertools
import math
import re
import sys
from xml.etree import ElementTree

import pytest
from helpers import fake_outcomes
from helpers.odd_outcomes import HOSTILE, made, oddities, stream
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from forgetkit.contracts import Answer, Chart, Series
from forgetkit.errors import OptionError, UsageError
from forgetkit.results import plots
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.plots import anytime, canvas, cost, layers, layout, series, styles


def unlearned(*shares: dict[str, tuple[int, int]]) -> dict:
    found = [{"layers": {name: {"size": s, "reset": r} for name, (s, r) in one.items()}} for one in shares]
    return {"mega_batches": [{"index": place, "unlearn": one} for place, one in enumerate([*found, None], 1)]}


def test_a_curve_is_the_mean_and_the_deviation_over_seeds():
    (curve,) = series.accuracies(made({"warm": [stream(0.5, 0.75), stream(0.75, 0.75)]}))
    assert curve.at[1].mean == 0.625
    assert curve.at[1].std == pytest.approx(0.25 / math.sqrt(2))
    assert (curve.at[2].mean, curve.at[2].std, curve.at[2].n) == (0.75, 0.0, 2)


def test_seeds_of_different_length_count_where_they_are():
    (curve,) = series.accuracies(made({"warm": [stream(0.5), stream(0.7, 0.9)]}))
    assert [curve.at[index].n for index in (1, 2)] == [2, 1]
    assert (curve.at[2].mean, curve.at[2].std) == (0.9, None)


def test_errors_add_up_until_they_are_not_known():
    known = stream(0.5, 0.75, 0.9)
    broken = stream(0.5, 0.75, 0.9)
    broken["mega_batches"][1]["test_errors"] = "many"
    whole, cut = series.errors(made({"known": [known], "broken": [broken]}))
    assert [whole.at[index].mean for index in (1, 2, 3)] == [50, 75, 85]
    assert {index: summary.mean for index, summary in cut.at.items()} == {1: 50}


def test_cost_is_passes_where_each_result_counts_them():
    counted = [{**stream(0.5), "forward_passes": 7 + seed, "backward_passes": 3} for seed in range(2)]
    found = series.costs(made({"warm": counted}))
    assert found.measure == "forward and backward passes"
    assert found.points[0].runs == ((10, 0.5), (11, 0.5))
    assert found.points[0].mean == (10.5, 0.5)
    mixed = series.costs(made({"warm": counted, "cold": [stream(0.5, 0.6)]}))
    assert mixed.measure == "samples seen"
    assert [point.mean for point in mixed.points] == [(10, 0.5), (20, 0.6)]


def test_reset_shares_are_averaged_over_mega_batches_then_seeds():
    first = unlearned({"z": (10, 1), "a": (4, 0)}, {"z": (10, 3), "a": (4, 0)})
    second = unlearned({"z": (10, 6), "a": (4, 2)})
    found = series.resets(made({"lure": [first, second], "warm": [unlearned({"z": (10, 0)})], "cold": [stream(0.5)]}))
    assert found.layers == ("z", "a")
    assert [(arm["method"], shares) for arm, shares in found.arms] == [("lure", (pytest.approx(0.4), 0.25))]


def test_only_completed_cells_count():
    lost = Outcome({"method": "warm"}, 1, "x", "failed", stream(0.1), "no")
    outcomes = made({"warm": [stream(0.5)]})
    (curve,) = series.accuracies(Outcomes("t", outcomes.axes, (*outcomes.cells, lost)))
    assert curve.at[1].n == 1


@pytest.mark.slow
@given(st.lists(oddities, min_size=1, max_size=2))
def test_odd_results_are_read_as_far_as_they_can_be(results):
    outcomes = made({"warm": [stream(0.5)], "odd": results})
    for read in (series.accuracies, series.errors):
        assert read(outcomes)[0].arm == {"method": "warm"}
    series.costs(outcomes)
    for _, shares in series.resets(outcomes).arms:
        assert all(share is None or math.isfinite(share) for share in shares)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_every_arm_looks_unlike_every_other(sizes):
    axes = {f"axis{place}": [f"v{value}" for value in range(size)] for place, size in enumerate(sizes)}
    outcomes = Outcomes("t", tuple(axes), fake_outcomes.missing(axes))
    found_styles = styles.arm_styles(outcomes)
    found = [(style.colour, style.dash, style.marker) for style in map(found_styles.of, outcomes.arms())]
    assert len(set(found)) == min(len(found), 280)  # 7 colours, 5 line styles, 8 markers: periods without a factor


def test_what_is_drawn_is_what_was_read():
    figure = anytime.draw(made({"one": [stream(0.5, 0.75)], "two": [stream(0.2, 0.4), stream(0.4, 0.8)]}))
    axes = figure.axes[0]
    lines = {tuple(round(y, 6) for y in line.get_ydata()) for line in axes.lines}
    assert lines == {(50.0, 75.0), (30.0, 60.0)}
    (band,) = axes.collections  # the arm with one seed has a line alone
    ends = {round(y, 6) for x, y in band.get_paths()[0].vertices if x == 2}
    half = 100 * 0.4 / math.sqrt(2)
    assert ends == {round(60 - half, 6), round(60 + half, 6)}


@pytest.mark.slow
def test_a_crowd_is_parted_by_its_first_axis():
    figure = anytime.draw(fake_outcomes.outcomes(fake_outcomes.MANY, seeds=1))
    assert [axes.get_title() for axes in figure.axes] == [f"importance {v}" for v in fake_outcomes.MANY["importance"]]
    assert {len(axes.lines) for axes in figure.axes} == {18}  # nine arms, each a line and its points


def test_the_map_has_a_field_per_layer_and_arm():
    figure = layers.draw(made({"a": [unlearned({"x": (10, 1), "y": (4, 1)})], "b": [unlearned({"y": (4, 2)})]}))
    axes = figure.axes[0]
    assert axes.collections[0].get_array().tolist() == [[10.0, 0.0], [25.0, 50.0]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]


def test_the_map_of_a_deep_network_names_some_of_its_layers():
    found = made({"a": [unlearned({f"layer{place}": (10, 1) for place in range(161)})]})
    figure = layers.draw(found)
    assert len(figure.axes[0].get_yticklabels()) == 54
    assert not figure.axes[0].texts
    assert figure.get_figheight() < 15


def test_nothing_to_draw_is_no_picture():
    assert plots.draw_pictures(made({"warm": [{}]})) == {}
    assert set(plots.draw_pictures(made({"warm": [stream(0.5)]}))) == {"anytime", "errors", "cost"}


@pytest.fixture(scope="module")
def figures():
    axes = {"arm": ("plain", HOSTILE, "_hidden")}
    return plots.draw_pictures(fake_outcomes.outcomes(axes, seeds=2, title=HOSTILE))


@pytest.mark.slow
def test_svg_is_whole_and_stands_beside_others(figures):
    roots = [ElementTree.fromstring(plots.svg(figure, name, HOSTILE)) for name, figure in figures.items()]
    assert len(roots) == 4
    elements = [element for root in roots for element in root.iter()]
    ids = [element.get("id") for element in elements if element.get("id")]
    assert len(set(ids)) == len(ids)
    wanted = [e.get("href")[1:] for e in elements if e.get("href", "").startswith("#")]
    wanted += [target for e in elements for v in e.attrib.values() for target in re.findall(r"^url\(#(.*)\)$", v)]
    assert wanted
    assert set(wanted) <= set(ids)
    others = {e.get("href").partition(";")[0] for e in elements if e.get("href")} - {f"#{one}" for one in wanted}
    assert others == {"data:image/png"}  # the colours beside the map
    kinds = {element.tag.rpartition("}")[2] for element in elements}
    assert kinds <= {"svg", "g", "path", "use", "text", "tspan", "defs", "clipPath", "rect", "polygon", "image"}
    assert not any(key in ("style", "class") or key.startswith("on") for e in elements for key in e.attrib)


def test_svg_escapes_text_and_uses_the_page_text_color(figures):
    text = plots.svg(figures["anytime"], "anytime")
    shown = {element.text for element in ElementTree.fromstring(text).iter() if element.text}
    assert {"mega-batch", "test accuracy (%)", "plain", "_hidden"} <= shown
    assert any(line.startswith("<script>alert(1)") for line in shown)
    assert "<script" not in text
    assert styles.INK not in text
    assert "currentColor" in text


@pytest.mark.slow
def test_files_are_valid_and_the_same_every_time(figures, tmp_path):
    import matplotlib as mpl

    again = plots.draw_pictures(fake_outcomes.outcomes({"arm": ("plain", HOSTILE, "_hidden")}, seeds=2, title=HOSTILE))
    for folder, drawn in (("a", figures), ("b", again)):
        (tmp_path / folder).mkdir()
        with mpl.rc_context({"font.size": 30 if folder == "b" else 10, "lines.linewidth": 9}):
            for name, form in [(name, form) for name in drawn for form in ("svg", "png")]:
                plots.save(drawn[name], tmp_path / folder / f"{name}.{form}")
            assert mpl.rcParams["lines.linewidth"] == 9
    for file in sorted((tmp_path / "a").iterdir()):
        content = file.read_bytes()
        assert content == (tmp_path / "b" / file.name).read_bytes()
        if file.suffix == ".png":
            with Image.open(file) as image:
                image.load()
                assert image.width >= 200 * canvas.WIDTH - 1
                assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
        else:
            assert b"prefers-color-scheme:dark" in content
            assert ElementTree.fromstring(content).tag.endswith("svg")
    with pytest.raises(OptionError, match=r"\.svg or \.png"):
        plots.save(figures["cost"], tmp_path / "cost.pdf")


def test_drawing_looks_neither_at_the_users_style_nor_at_pyplot(monkeypatch):
    import matplotlib as mpl

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    outcomes = made({"warm": [stream(0.5)]})
    ours = plots.svg(cost.draw(outcomes), "cost")
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 22, "figure.dpi": 300}):
        assert plots.svg(cost.draw(outcomes), "cost") == ours


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'forgetkit\[plot\]'"):
        plots.draw_pictures(made({"warm": [stream(0.5)]}))


def test_of_a_line_without_end_its_shape_is_drawn():
    """300,000 points: the extremes stay, also that of a single one."""
    values = [math.sin(place / 10_000) for place in range(300_000)]
    values[123_456], values[200_001] = 9.0, None
    line = layout.ChartLine(("a",), "a", tuple(map(float, range(300_000))), tuple(values), (None,) * 300_000)
    few = layout.thin_line(line)
    assert len(few.x) <= layout.POINTS
    assert (few.x[0], few.x[-1], max(value for value in few.y if value is not None)) == (0.0, 299_999.0, 9.0)
    assert all(line.y[int(x)] == y for x, y in zip(few.x, few.y, strict=True))
    assert max(right - left for left, right in itertools.pairwise(few.x)) <= 300_000 / (layout.POINTS // 4)
    short = layout.ChartLine(("a",), "a", (1.0, 2.0), (3.0, 4.0), (None, None))
    assert layout.thin_line(short) is short


def test_a_map_of_many_columns_is_drawn_at_a_few_of_them():
    series = [Series(row, list(range(5000)), [0.5] * 5000) for row in "ab"]
    chart = Chart("m", "A map.", "place", "value", series, kind="heat")
    (found,) = layout.answer_layouts("x", Answer(charts=(chart,))).values()
    assert {len(line.x) for line in found.panels[0].lines} <= set(range(1, layout.COLUMNS + 1))
    assert len({line.x for line in found.panels[0].lines}) == 1
    assert "evenly spaced" in found.caption
