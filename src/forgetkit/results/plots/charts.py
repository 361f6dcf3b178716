"""Charts of answers as figures: lines, bars and heat maps, with readable names of places."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from forgetkit.contracts import Answer, Unit
from forgetkit.results.line_breaks import break_lines
from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots import canvas, layout
from forgetkit.results.plots.layout import ChartLayout, ChartLine, ChartPanel, Position, order_places
from forgetkit.results.plots.styles import INK, Style, Styles, arm_styles, named_styles, shorten
from forgetkit.results.render.formatting import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UNITS: dict[Unit, tuple[float, str]] = {
    "fraction": (100.0, " (%)"),
    "seconds": (1.0, " (s)"),
    "bytes": (2**-20, " (MiB)"),
}
_PER_INCH = 9  # letters of the name of an axis
_LETTERS = 44  # side by side below a pair of axes of full width
_TITLE = 56  # the same in the titles of panels, which are smaller
_LONGEST = 24  # letters of the name of a place
_NAMED = 60  # places that are named; of more, every second or third is
_ZERO = 0.5  # decades from zero to the smallest place on a logarithmic axis
_RANGE = 1e200  # largest ratio of two places on a logarithmic axis
_FIGURES_UP_TO = 8  # columns of a map whose values are written into it
_FIGURES = 56  # letters side by side in a map of full width
_CROWD = 6  # more lines than these are thinner
_NAN = math.nan


def arm_charts(outcomes: Outcomes) -> dict[str, Figure]:
    """Draw the charts of all answers, all arms in one figure."""
    styles = arm_styles(outcomes)
    return {name: draw(one, styles) for name, one in layout.arm_layouts(outcomes).items()}


def answer_charts(label: str, answer: Answer, *, common: bool = False) -> dict[str, Figure]:
    """Draw the charts of one answer."""
    return {name: draw(one) for name, one in layout.answer_layouts(label, answer, common=common).items()}


def draw(chart: ChartLayout, arms: Styles | None = None) -> Figure:
    """Draw a chart; ``arms`` are the styles of the arms, for a chart that distinguishes arms by them."""
    with canvas.plot_style():
        figure = _map(chart) if chart.of.kind == "heat" else _plot(chart, _styles(chart, arms))
        return canvas.freeze_layout(figure)


def _styles(chart: ChartLayout, arms: Styles | None) -> Styles | None:
    if chart.styled_by == "series":
        return named_styles(list(dict.fromkeys(line.name for panel in chart.panels for line in panel.lines)))
    return arms if chart.styled_by == "arms" else None


@dataclass(frozen=True)
class _Scale:
    """Maps places to positions. ``words`` are the names of places, empty if places are numbers.

    ``down``: names that do not fit side by side are one below the other, and values go across.
    """

    words: tuple[str, ...]
    down: bool
    x: float
    y: float

    @classmethod
    def of(cls, chart: ChartLayout) -> _Scale:
        places = [place for panel in chart.panels for line in panel.lines for place in line.x]
        words: tuple[str, ...] = ()
        if any(isinstance(place, str) for place in places):
            words = tuple(dict.fromkeys(map(_word, places)))
        down = sum(min(len(word), _LONGEST) + 3 for word in words) > _room(len(chart.panels))
        factor = _factor(chart.of.unit)
        return cls(words, down, factor if chart.of.diagonal else 1.0, factor)

    def at(self, line: ChartLine) -> list[float]:
        if self.words:
            positions = {word: float(position) for position, word in enumerate(self.words)}
            return [positions[_word(place)] for place in line.x]
        return [self.x * float(place) for place in line.x]

    def values(self, found: Sequence[float | None]) -> list[float]:
        """Values in the unit of the axis; NaN, which is not drawn, for a gap."""
        return [_NAN if value is None else self.y * value for value in found]


def _plot(chart: ChartLayout, styles: Styles | None) -> Figure:
    """Two panels to a row with the same axes; three if the names of places are one below the other."""
    from matplotlib.ticker import MaxNLocator

    scale, count = _Scale.of(chart), len(chart.panels)
    columns = min(3 if scale.down and count != 4 else 2, count)
    rows = -(-count // columns)
    height = 3.1 if rows == 1 else 2.2
    if scale.down:
        height = max(1.6, 1.0 + _row_height(chart) * min(len(scale.words), _NAMED))
    figure = canvas.blank_figure(styles, canvas.WIDTH, height * rows)
    for place, (axes, panel) in enumerate(
        zip(canvas.subplots(figure, rows, columns, count), chart.panels, strict=True)
    ):
        if panel.title:
            letters = _LETTERS if scale.down else _TITLE
            axes.set_title(shorten(one_line(panel.title), letters // columns), fontsize=9.5)
        _Drawing(chart, scale, styles, axes).panel(panel)
        axes.tick_params(labelbottom=place + columns >= count)
        if scale.down and columns > 1:
            axes.xaxis.set_major_locator(MaxNLocator(6 // columns))
    _label(figure, *(_labels(chart)[::-1] if scale.down else _labels(chart)), columns)
    return figure


def _label(figure: Figure, across: str, upwards: str, columns: int) -> None:
    """Name the axes, in lines if one is too short; several panels share the name of the vertical axis."""
    width, height = figure.get_size_inches()
    for axes in figure.axes[-columns:]:
        axes.set_xlabel(_lines(across, width / columns))
    if len(figure.axes) == 1:
        figure.axes[0].set_ylabel(_lines(upwards, height))
    else:
        figure.supylabel(_lines(upwards, height), fontsize=10)


def _lines(text: str, inches: float) -> str:
    return "\n".join(line.strip() for line in break_lines(one_line(text), max(12, int(_PER_INCH * inches))))


def _room(panels: int) -> int:
    """Letters side by side below a pair of axes."""
    return _LETTERS if panels == 1 else _LETTERS // 2 - 2


def _labels(chart: ChartLayout) -> tuple[str, str]:
    """The labels of places and of values."""
    of = chart.of
    return _with_unit(of.x_label, of.unit) if of.diagonal else of.x_label, _with_unit(of.y_label, of.unit)


def _row_height(chart: ChartLayout) -> float:
    """Inches of a place with a name, so that the points of all arms stay apart."""
    most = max(len(panel.lines) for panel in chart.panels)
    return 0.2 if chart.of.kind == "lines" else max(0.2, 0.1 + 0.05 * most)


@dataclass(frozen=True)
class _Drawing:
    """One pair of axes: positions across and values upwards, or positions down and values across."""

    chart: ChartLayout
    scale: _Scale
    styles: Styles | None
    axes: Axes

    def panel(self, panel: ChartPanel) -> None:
        single = len(panel.lines) == 1 and self.styles is None
        draw: Callable[[ChartPanel], None] = self._lines
        if self.chart.of.kind == "bars":
            draw = self._bars if single else self._dots if self.scale.words else self._lines
        if self.chart.of.diagonal:
            style: dict[str, Any] = {"color": INK, "alpha": 0.45, "linewidth": 0.9, "linestyle": (0, (4, 3))}
            self.axes.plot([0, self.scale.x], [0, self.scale.y], **style)
        draw(panel)
        if self._values and not any(self._values):  # limits around 0 would show values below it
            (self.axes.set_xlim if self.scale.down else self.axes.set_ylim)(0, 1)
        self._ticks(panel)

    @cached_property
    def _values(self) -> list[float]:
        return [y for panel in self.chart.panels for line in panel.lines for y in line.y if y is not None]

    def _style(self, line: ChartLine) -> Style:
        if self.styles is None:
            return next(iter(named_styles([line.name]).by_arm.values()))
        return self.styles.by_arm[line.key]

    def _lines(self, panel: ChartPanel) -> None:
        crowded = len(panel.lines) > _CROWD
        for line in panel.lines:
            style, at, middle = self._style(line), self.scale.at(line), self.scale.values(line.y)
            spread = self.scale.values(line.spread)
            ends = self._within(middle, spread)
            low = [y - under for y, (under, _) in ends]
            high = [y + over for y, (_, over) in ends]
            if not all(map(math.isnan, low)):
                fill = self.axes.fill_betweenx if self.scale.down else self.axes.fill_between
                fill(at, low, high, color=style.colour, alpha=0.06 if crowded else 0.16, linewidth=0)
                self._error(at, middle, _separate_deviations(spread, low), style)
            canvas.line(self.axes, style, *self._turned(at, middle), thin=crowded)
            self._points(style, at, middle, 3.0 if crowded else 4.5)

    def _dots(self, panel: ChartPanel) -> None:
        """Draw a point per line at each place, side by side."""
        count = len(panel.lines)
        step = min(0.16, 0.76 / count)
        for place, line in enumerate(panel.lines):
            style, middle = self._style(line), self.scale.values(line.y)
            at = [x + step * (place - (count - 1) / 2) for x in self.scale.at(line)]
            self._error(at, middle, self.scale.values(line.spread), style)
            self._points(style, at, middle, 4.5)

    def _bars(self, panel: ChartPanel) -> None:
        (line,) = panel.lines
        style, at, heights = self._style(line), self.scale.at(line), self.scale.values(line.y)
        apart = min((b - a for a, b in itertools.pairwise(sorted(at)) if b > a), default=1.0)
        width = (0.7 if self.scale.words else 0.92) * apart
        bars: Any = self.axes.barh if self.scale.down else self.axes.bar
        bars(at, heights, width, color=style.colour, alpha=0.8, linewidth=0)
        self._error(at, heights, self.scale.values(line.spread), Style(INK))

    def _error(self, at: Sequence[float], middle: Sequence[float], spread: Sequence[float], style: Style) -> None:
        ends = self._within(middle, spread)
        known = [(x, y, s) for x, (y, s) in zip(at, ends, strict=True) if not math.isnan(s[0])]
        if not known:
            return
        places, values, each = zip(*known, strict=True)
        deviations = list(zip(*each, strict=True))
        which = "xerr" if self.scale.down else "yerr"
        options: dict[str, Any] = {which: deviations, "fmt": "none", "ecolor": style.colour, "elinewidth": 1.1}
        self.axes.errorbar(*self._turned(places, values), alpha=0.7, **options)

    def _within(self, middle: Sequence[float], spread: Sequence[float]) -> list[tuple[float, tuple[float, float]]]:
        """Each value, and how far a deviation reaches below and above it, within the possible values.

        Counts and measures end at 0; fractions between 0 and 1 also end at 100 %.
        """
        unit, values = self.chart.of.unit, self._values
        least = 0.0 if unit != "number" and min(values, default=0.0) >= 0 else -math.inf
        most = self.scale.y if unit == "fraction" and least == 0 and max(values, default=0.0) <= 1 else math.inf
        return [
            (y, (_NAN, _NAN) if math.isnan(s) else (min(s, y - least), min(s, most - y)))
            for y, s in zip(middle, spread, strict=True)
        ]

    def _points(self, style: Style, at: Sequence[float], middle: Sequence[float], size: float) -> None:
        known = [pair for pair in zip(at, middle, strict=True) if not math.isnan(pair[1])]
        canvas.points(self.axes, style, [(y, x) if self.scale.down else (x, y) for x, y in known], size)

    def _turned(self, at: Sequence[float], values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        return (values, at) if self.scale.down else (at, values)

    def _ticks(self, panel: ChartPanel) -> None:
        from matplotlib.ticker import MaxNLocator

        if self.scale.words:
            _name_ticks(self.axes, self.scale.words, down=self.scale.down)
            return
        at = sorted({x for line in panel.lines for x in self.scale.at(line)})
        if self.chart.of.logarithmic and _has_logarithms(at):
            _logarithmic(self.axes, at, _room(len(self.chart.panels)))
        elif all(x == round(x) for x in at) and not self.chart.of.diagonal:
            self.axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _separate_deviations(spread: Sequence[float], ends: Sequence[float]) -> list[float]:
    """The deviations at places without a neighbour, where a band has no width."""
    known = [False, *(not math.isnan(end) for end in ends), False]
    return [_NAN if before or after else own for own, before, after in zip(spread, known[:-2], known[2:], strict=True)]


def _name_ticks(axes: Axes, words: Sequence[str], *, down: bool) -> None:
    every = -(-len(words) // _NAMED)
    positions = list(range(0, len(words), every))
    shown = [shorten(one_line(words[position]), _LONGEST) for position in positions]
    if down:
        axes.set_yticks(positions, shown, fontsize=8.5)
        axes.set_ylim(len(words) - 0.4, -0.6)
    else:
        axes.set_xticks(positions, shown)
        axes.set_xlim(-0.6, len(words) - 0.4)


def _has_logarithms(at: Sequence[float]) -> bool:
    """Whether a place is above zero, and matplotlib can compute the powers of all decades."""
    smallest = min((x for x in at if x > 0), default=0.0)
    return smallest > 1 / _RANGE and max(map(abs, at)) < _RANGE * smallest


def _logarithmic(axes: Axes, at: Sequence[float], letters: int) -> None:
    """Put a tick at each place that has room for its name; zero, which has no logarithm, is at the left."""
    smallest = min(x for x in at if x > 0)
    if at[0] > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=smallest, linscale=_ZERO)
    position = [math.log10(x / smallest) if x > 0 else -_ZERO for x in at]
    shown: dict[float, str] = {}
    free = -math.inf
    for x, place in zip(at, position, strict=True):
        name = f"{x:.2g}"
        half = (len(name) + 1) / 2 * (position[-1] - position[0]) / letters
        if place - half >= free:
            shown[x] = name
            free = place + half
    axes.set_xticks(list(shown), list(shown.values()))
    axes.minorticks_off()


def _map(chart: ChartLayout) -> Figure:
    """A map per panel, all with the same rows, columns and colours."""
    lines = [line for panel in chart.panels for line in panel.lines]
    rows = tuple(dict.fromkeys(line.name for line in lines))
    columns = order_places(place for line in lines for place in line.x)
    heads = [shorten(one_line(_word(place)), _LONGEST) for place in columns]
    names = [shorten(one_line(row), _LONGEST) for row in rows]
    count = len(chart.panels)
    beside = 2 if count > 1 and len(columns) <= _FIGURES_UP_TO else 1
    down = -(-count // beside)
    tilted = sum(len(head) + 2 for head in heads) > _room(beside)
    every = -(-len(rows) // _NAMED)
    height = max(1.1, 0.8 + 0.24 * len(rows) / every) + (0.075 * max(map(len, heads)) if tilted else 0.0)
    width = max(canvas.WIDTH, 2.0 + 0.2 * len(columns))
    figure = canvas.blank_figure(None, width, height * down + 0.7)
    factor = _factor(chart.of.unit)
    values = [_grid(panel, rows, columns, factor) for panel in chart.panels]
    known = [value for own in values for row in own for value in row if not math.isnan(value)]
    low, high = (min(known), max(known)) if chart.limits is None else [factor * end for end in chart.limits]
    longest = max(len(_figure(value, high)) for value in known)
    used = canvas.subplots(figure, down, beside, count)
    for place, axes in enumerate(used):
        painted = canvas.heat_map(axes, values[place], (low, high), names, heads, every, tilted=tilted)
        axes.set_title(shorten(one_line(chart.panels[place].title), _LETTERS // beside), fontsize=9.5)
        axes.tick_params(labelbottom=place + beside >= count)
        if len(columns) * longest <= _FIGURES // beside and len(columns) <= _FIGURES_UP_TO and every == 1:
            canvas.write_values(axes, values[place], (low, high), partial(_figure, high=high))
    _label(figure, chart.of.x_label, chart.of.y_label, beside)
    canvas.colour_bar(figure, painted, used, _with_unit(re.sub("[-_]", " ", chart.of.name), chart.of.unit))
    return figure


def _grid(panel: ChartPanel, rows: Sequence[str], columns: Sequence[Position], factor: float) -> list[list[float]]:
    found = {
        (line.name, x): factor * y for line in panel.lines for x, y in zip(line.x, line.y, strict=True) if y is not None
    }
    return [[found.get((row, column), _NAN) for column in columns] for row in rows]


def _figure(value: float, high: float) -> str:
    """With tenths or whole, as the highest value of the map; three digits if that is very small or large."""
    if not 1 <= abs(high) < 1e6:
        return f"{value:.3g}"
    return f"{value:.1f}" if abs(high) < 1000 else f"{value:,.0f}"


def _word(place: Position) -> str:
    return place if isinstance(place, str) else f"{place:g}"


def _factor(unit: Unit) -> float:
    return _UNITS.get(unit, (1.0, ""))[0]


def _with_unit(label: str, unit: Unit) -> str:
    suffix = _UNITS.get(unit, (1.0, ""))[1]
    return label if suffix.strip(" ()") in label else f"{label}{suffix}"
