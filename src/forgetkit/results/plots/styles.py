"""How arms are distinguished: by colour, line style and marker.

If two or three axes differ, the first gets the colour, the second the line style and the fill of points, the third the
marker, and the legend names values instead of combinations. Otherwise each arm has a style of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forgetkit.results.outcome import Outcomes
from forgetkit.results.render.formatting import one_line

INK = "#1d2127"
"""The colour of text and axes. In SVG it becomes the colour of the surrounding text."""

# Okabe and Ito's colours, which colour-blind people can distinguish, without the yellow and the black that vanish on
# a white or a dark page.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a8a")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.4, 1.2, 1.4)), (0, (2.4, 2.4)))
FILLS = ("full", "none", "left", "top", "right")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

LEGEND_ROWS = 40  # arms that a legend names at most
_WIDE = 60  # letters side by side in a legend


@dataclass(frozen=True)
class Style:
    """How a line and its points are drawn; None leaves out the marker, as in a legend of values."""

    colour: str = INK
    dash: Any = "-"
    marker: str | None = None
    fill: Any = "full"


@dataclass(frozen=True)
class Styles:
    """The style of each arm, and the legend: columns of a heading with names and styles below.

    ``colour_axis`` is the axis that has the colours, None if each arm has a style of its own.
    """

    axes: tuple[str, ...]
    by_arm: Mapping[tuple[str, ...], Style]
    legend: tuple[tuple[str, tuple[tuple[str, Style], ...]], ...]
    colour_axis: str | None = None

    def of(self, arm: Mapping[str, str]) -> Style:
        """The style of an arm, the same in every picture."""
        return self.by_arm[tuple(arm[axis] for axis in self.axes)]


def differing_axes(outcomes: Outcomes) -> dict[str, tuple[str, ...]]:
    """Axes on which arms differ, with their values; all axes if there is a single arm."""
    arms = outcomes.arms()
    values = {axis: tuple(dict.fromkeys(arm[axis] for arm in arms)) for axis in outcomes.axes}
    return {axis: found for axis, found in values.items() if len(found) > 1} or values


def arm_names(outcomes: Outcomes) -> dict[tuple[str, ...], str]:
    """The name of each arm in a picture, by its key: its values on the axes that differ."""
    axes = differing_axes(outcomes)
    return {outcomes.key(arm): ", ".join(one_line(arm[axis]) for axis in axes) for arm in outcomes.arms()}


def arm_styles(outcomes: Outcomes) -> Styles:
    """A style for each arm."""
    axes = differing_axes(outcomes)
    palettes = (COLOURS, DASHES, MARKERS)
    if 2 <= len(axes) <= 3 and all(len(v) <= len(p) for v, p in zip(axes.values(), palettes, strict=False)):
        return _by_axis(outcomes, axes)
    return _one_by_one(outcomes.axes, arm_names(outcomes), ", ".join(map(one_line, axes)))


def shorten(text: str, letters: int) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return f"{text[: letters - 1 - tail]}…{text[len(text) - tail :]}"


def _by_axis(outcomes: Outcomes, axes: Mapping[str, tuple[str, ...]]) -> Styles:
    def style(arm: Mapping[str, str]) -> Style:
        places = [values.index(arm[axis]) for axis, values in axes.items()]
        marker = MARKERS[places[2]] if len(places) == 3 else "o"
        return Style(COLOURS[places[0]], DASHES[places[1]], marker, FILLS[places[1]])

    samples = (
        [Style(colour=colour) for colour in COLOURS],
        [Style(dash=dash, marker="o", fill=fill) for dash, fill in zip(DASHES, FILLS, strict=True)],
        [Style(dash="none", marker=marker) for marker in MARKERS],
    )
    width = _WIDE // len(axes) - 6
    legend = tuple(
        (
            shorten(one_line(axis), width),
            tuple((shorten(one_line(v), width), s) for v, s in zip(values, kind, strict=False)),
        )
        for (axis, values), kind in zip(axes.items(), samples, strict=False)
    )
    return Styles(outcomes.axes, {outcomes.key(arm): style(arm) for arm in outcomes.arms()}, legend, next(iter(axes)))


def named_styles(names: Sequence[str]) -> Styles:
    """A style for each name; its key is ``(name,)``."""
    return _one_by_one(("",), {(name,): one_line(name) or "–" for name in names}, "")


def _one_by_one(axes: tuple[str, ...], names: Mapping[tuple[str, ...], str], heading: str) -> Styles:
    by_arm = {
        key: Style(COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])
        for place, key in enumerate(names)
    }
    entries = [(shorten(names[key], _WIDE - 6), style) for key, style in list(by_arm.items())[:LEGEND_ROWS]]
    longest = max(len(name) for name, _ in entries)
    columns = max(1, min(4, _WIDE // (longest + 6), len(entries)))
    rows = -(-len(entries) // columns)
    blocks = [tuple(entries[start : start + rows]) for start in range(0, len(entries), rows)]
    more = len(by_arm) - len(entries)
    heads = [shorten(heading, _WIDE - 6) + (f" ({more} more are not named here)" if more else "")]
    heads += [""] * (len(blocks) - 1)
    return Styles(axes, by_arm, tuple(zip(heads, blocks, strict=True)))
