"""The layout of the charts of answers, with the arms of an ablation in one chart: plain numbers, nothing drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from forgetkit.contracts import Answer, Chart, Series
from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots.series import number
from forgetkit.results.plots.styles import arm_names
from forgetkit.results.render.formatting import one_line
from forgetkit.results.statistics import summarize

Key = tuple[str, ...]
Position = float | str

PANELS_OF_SERIES = 6  # series with a panel each, if arms are compared; with more series, each arm has a panel
PANELS = 12
LINES = 20  # series in a panel
POINTS = 2000  # places of a line or of bars: more than a picture has pixels show no more
COLUMNS = 240  # places of a map
_OVER_SEEDS = {
    "lines": "The mean over seeds, in a band of one standard deviation either way.",
    "bars": "The mean over seeds, with one standard deviation either way.",
    "heat": "The mean over seeds.",
}


@dataclass(frozen=True)
class ChartLine:
    """Values at places, None for a gap. ``key`` is the key of its style, that of an arm or a series."""

    key: Key
    name: str
    x: tuple[Position, ...]
    y: tuple[float | None, ...]
    spread: tuple[float | None, ...]


@dataclass(frozen=True)
class ChartPanel:
    """The content of one pair of axes."""

    title: str
    lines: tuple[ChartLine, ...]


@dataclass(frozen=True)
class ChartLayout:
    """A chart before it is drawn; ``of`` has its labels, kind and unit.

    ``styled_by`` is what styles distinguish, ``limits`` are the ends of a map's colours if other maps share them.
    """

    of: Chart
    panels: tuple[ChartPanel, ...]
    styled_by: Literal["arms", "series", "nothing"]
    caption: str
    limits: tuple[float, float] | None = None


def answer_layouts(label: str, answer: Answer, *, common: bool = False) -> dict[str, ChartLayout]:
    """The charts of one answer, ``LABEL.CHART``; of an answer about all cells together, ``LABEL.all.CHART``.

    Maps of a common answer stand for arms, so maps with the same axes share their colours.
    """
    stem = f"{label}.all" if common else label
    found = {f"{stem}.{chart.name}": _layout([((), "", [chart])]) for chart in answer.charts}
    whole = {name: chart for name, chart in found.items() if chart is not None}
    if not common:
        return whole
    ends: dict[tuple[str, ...], list[float]] = {}
    for chart in whole.values():
        if chart.of.kind == "heat":
            values = [y for panel in chart.panels for line in panel.lines for y in line.y if y is not None]
            ends.setdefault(_axes(chart.of), []).extend((min(values), max(values)))
    shared = {axes: (min(values), max(values)) for axes, values in ends.items()}
    return {name: replace(chart, limits=shared.get(_axes(chart.of))) for name, chart in whole.items()}


def _axes(chart: Chart) -> tuple[str, ...]:
    return (chart.kind, chart.x_label, chart.y_label, chart.unit)


def arm_layouts(outcomes: Outcomes) -> dict[str, ChartLayout]:
    """Each chart of the cells' answers with all arms in it, by label and name; then the charts of common answers."""
    charts: dict[str, dict[Key, list[Chart]]] = {}
    names = arm_names(outcomes)
    titles = names if len(names) > 1 else dict.fromkeys(names, "")
    for cell in outcomes.cells:
        for stored in cell.answers:
            for chart in stored.answer.charts:
                by_arm = charts.setdefault(f"{stored.label}.{chart.name}", {})
                by_arm.setdefault(outcomes.key(cell.arm), []).append(chart)
    found = {
        name: _layout([(key, titles[key], by_arm[key]) for key in names if key in by_arm])
        for name, by_arm in sorted(charts.items(), key=lambda one: one[0].partition(".")[0])
    }
    for stored in outcomes.answers:
        found |= answer_layouts(stored.label, stored.answer, common=True)
    return {name: chart for name, chart in found.items() if chart is not None}


def average_series(found: Sequence[Series]) -> tuple[tuple[Position, ...], list[float | None], list[float | None]]:
    """Places, means and deviations of a series over seeds; of a single seed, the spread that it has itself.

    If seeds have different places, the mean at a place is over the seeds that have it.
    """
    if len(found) == 1:
        (one,) = found
        return tuple(one.x), list(one.y), list(one.spread or [None] * len(one.x))
    if len({tuple(series.x) for series in found}) == 1:
        places: tuple[Position, ...] = tuple(found[0].x)
        columns = list(zip(*(series.y for series in found), strict=True))
    else:
        places = order_places(place for series in found for place in series.x)
        at = [dict(zip(series.x, series.y, strict=True)) for series in found]
        columns = [tuple(own.get(place) for own in at) for place in places]
    across = [summarize(value for value in column if value is not None) for column in columns]
    return places, [one.mean for one in across], [one.std for one in across]


def order_places(places: Iterable[Position]) -> tuple[Position, ...]:
    """Each place once: numbers ascending, words in the order in which they come."""
    once = list(dict.fromkeys(places))
    numbers = [place for place in once if not isinstance(place, str)]
    return tuple(once) if len(numbers) < len(once) else tuple(sorted(numbers))


def _layout(by_arm: Sequence[tuple[Key, str, Sequence[Chart]]]) -> ChartLayout | None:
    """The charts of all arms as one, of the kind of the first; None if no series has a point."""
    chart = by_arm[0][2][0]
    arms = [(key, title, _series([one for one in charts if one.kind == chart.kind])) for key, title, charts in by_arm]
    arms = [(key, title, series) for key, title, series in arms if series]
    every = list(dict.fromkeys(name for _, _, series in arms for name in series))
    if not every:
        return None
    several = len(arms) > 1
    if chart.kind == "heat":
        styled_by: Any = "nothing"
        panels = [ChartPanel(title, tuple(series.values())) for _, title, series in arms]
    elif several and len(every) <= PANELS_OF_SERIES:
        styled_by = "arms"
        panels = [
            ChartPanel(
                one_line(name) if len(every) > 1 else "",
                tuple(replace(series[name], key=key) for key, _, series in arms if name in series),
            )
            for name in every
        ]
    else:
        styled_by = "series" if len(every) > 1 else "nothing"
        panels = [ChartPanel(title, tuple(list(series.values())[:LINES])) for _, title, series in arms]
    return ChartLayout(chart, tuple(panels[:PANELS]), styled_by, " ".join(_caption_lines(chart, by_arm, panels, arms)))


def _series(charts: Sequence[Chart]) -> dict[str, ChartLine]:
    """Each series of an arm over its seeds, by name; without series that have no value."""
    gathered: dict[str, list[Series]] = {}
    for chart in charts:
        for series in chart.series:
            gathered.setdefault(series.name, []).append(_drop_nonfinite(series))
    found, heat = {}, any(chart.kind == "heat" for chart in charts)
    for name, own in gathered.items():
        places, means, deviations = average_series(own)
        if any(mean is not None for mean in means):
            line = ChartLine((name,), name, places, tuple(means), tuple(deviations))
            found[name] = (
                _take_places(line, range(0, len(line.x), -(-len(line.x) // COLUMNS))) if heat else thin_line(line)
            )
    return found


def thin_line(line: ChartLine) -> ChartLine:
    """A line of at most about ``POINTS`` places: evenly spaced ones, and the extremes between them."""
    count = len(line.x)
    if count <= POINTS:
        return line
    stretches = POINTS // 4
    ends = [place * count // stretches for place in range(stretches + 1)]
    chosen = {0, count - 1}
    for start, end in itertools.pairwise(ends):
        known = [place for place in range(start, end) if line.y[place] is not None] or [start]
        heights = [line.y[place] or 0.0 for place in known]
        chosen |= {start, known[heights.index(min(heights))], known[heights.index(max(heights))]}
    return _take_places(line, sorted(chosen))


def _take_places(line: ChartLine, places: Sequence[int]) -> ChartLine:
    x, y = tuple(line.x[place] for place in places), tuple(line.y[place] for place in places)
    return replace(line, x=x, y=y, spread=tuple(line.spread[place] for place in places))


def _drop_nonfinite(series: Series) -> Series:
    """A series without numbers that are not finite, and without deviations below zero."""
    kept = [place for place, x in enumerate(series.x) if isinstance(x, str) or number(x) is not None]
    y = [number(series.y[place]) for place in kept]
    spread = [number((series.spread or [None] * len(series.x))[place]) for place in kept]
    spread = [None if value is not None and value < 0 else value for value in spread]
    return Series(series.name, [series.x[place] for place in kept], y, spread)  # type: ignore[arg-type]


def _caption_lines(
    chart: Chart,
    by_arm: Sequence[tuple[Key, str, Sequence[Chart]]],
    panels: Sequence[ChartPanel],
    arms: Sequence[tuple[Key, str, Mapping[str, ChartLine]]],
) -> Iterator[str]:
    """The caption, how seeds were averaged, and what is left out."""
    own = one_line(chart.caption)
    yield own if own.endswith((".", "!", "?")) or not own else f"{own}."
    if any(len(charts) > 1 for _, _, charts in by_arm):
        yield _OVER_SEEDS[chart.kind]
        alone = [series for _, _, (one, *others) in by_arm if not others for series in one.series]
        if chart.kind != "heat" and any(series.spread for series in alone):
            yield "An arm with one seed has the spread that the analysis gave."
    if max((len(series.x) for _, _, charts in by_arm for one in charts for series in one.series), default=0) > (
        COLUMNS if chart.kind == "heat" else POINTS
    ):
        yield "Of many places the evenly spaced ones and the extremes between them are drawn."
    if len(panels) > PANELS:
        yield f"{len(panels) - PANELS} of {len(panels)} panels are left out."
    drawn = {line.name for panel in panels for line in panel.lines}
    most = len({name for _, _, series in arms for name in series})
    if len(drawn) < most:
        yield f"{most - len(drawn)} of {most} series are left out."
