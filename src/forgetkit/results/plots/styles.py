"""How arms are told apart: by colour, line style and marker.

Where two or three axes differ, the first is told by colour, the second by line style and how points are filled, the
third by marker, and the legend names values instead of every combination. Otherwise each arm has a look of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forgetkit.results.outcome import Outcomes
from forgetkit.results.render.formatting import one_line

INK = "#1d2127"
"""The colour of text and axes. In SVG it becomes that of the text around the picture."""

# Okabe and Ito's colours, which colour-blind people tell apart, less the yellow and the black that are lost on a
# white or a dark page.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a8a")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.4, 1.2, 1.4)), (0, (2.4, 2.4)))
FILLS = ("full", "none", "left", "top", "right")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

LEGEND_ROWS = 40
"""Arms that a legend names at most."""
_WIDE = 60
"""Letters side by side in a legend."""


@dataclass(frozen=True)
class Style:
    """How a line and its points are drawn; None leaves that out, as in a legend of values."""

    colour: str = INK
    dash: Any = "-"
    marker: str | None = None
    fill: Any = "full"


@dataclass(frozen=True)
class Styles:
    """The look of each arm, and the legend: columns of a heading with names and looks below.

    ``apart`` is the axis that is told by colour, by whose values a crowd can be parted; None where each arm is alone.
    """

    axes: tuple[str, ...]
    by_arm: Mapping[tuple[str, ...], Style]
    legend: tuple[tuple[str, tuple[tuple[str, Style], ...]], ...]
    apart: str | None = None

    def of(self, arm: Mapping[str, str]) -> Style:
        """An arm's look, the same in every picture."""
        return self.by_arm[tuple(arm[axis] for axis in self.axes)]


def differing_axes(outcomes: Outcomes) -> dict[str, tuple[str, ...]]:
    """Axes on which arms differ, with their values; all axes where there is a single arm."""
    arms = outcomes.arms()
    values = {axis: tuple(dict.fromkeys(arm[axis] for arm in arms)) for axis in outcomes.axes}
    return {axis: found for axis, found in values.items() if len(found) > 1} or values


def arm_names(outcomes: Outcomes) -> dict[tuple[str, ...], str]:
    """What an arm is called in a picture: its values on the axes that differ."""
    axes = differing_axes(outcomes)
    return {
        tuple(arm[axis] for axis in outcomes.axes): ", ".join(one_line(arm[axis]) for axis in axes)
        for arm in outcomes.arms()
    }


def arm_styles(outcomes: Outcomes) -> Styles:
    """A look for each arm."""
    axes = differing_axes(outcomes)
    palettes = (COLOURS, DASHES, MARKERS)
    if 2 <= len(axes) <= 3 and all(len(v) <= len(p) for v, p in zip(axes.values(), palettes, strict=False)):
        return _by_axis(outcomes, axes)
    return _by_arm(outcomes, ", ".join(map(one_line, axes)))


def shorten(text: str, letters: int) -> str:
    """The beginning and the end of what is too long."""
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return f"{text[: letters - 1 - tail]}…{text[len(text) - tail :]}"


def _by_axis(outcomes: Outcomes, axes: Mapping[str, tuple[str, ...]]) -> Styles:
    def look(arm: Mapping[str, str]) -> Style:
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
    return Styles(outcomes.axes, {key: look(arm) for key, arm in _arms_with_keys(outcomes)}, legend, next(iter(axes)))


def named_styles(names: Sequence[str]) -> Styles:
    """A look for each name; its key is ``(name,)``."""
    return _styles_one_by_one(("",), {(name,): one_line(name) or "–" for name in names}, "")


def _by_arm(outcomes: Outcomes, heading: str) -> Styles:
    return _styles_one_by_one(outcomes.axes, arm_names(outcomes), heading)


def _styles_one_by_one(axes: tuple[str, ...], called: Mapping[tuple[str, ...], str], heading: str) -> Styles:
    by_arm = {
        key: Style(COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])
        for place, key in enumerate(called)
    }
    entries = [(shorten(called[key], _WIDE - 6), look) for key, look in list(by_arm.items())[:LEGEND_ROWS]]
    longest = max(len(name) for name, _ in entries)
    columns = max(1, min(4, _WIDE // (longest + 6), len(entries)))
    rows = -(-len(entries) // columns)
    blocks = [tuple(entries[start : start + rows]) for start in range(0, len(entries), rows)]
    more = len(by_arm) - len(entries)
    heads = [shorten(heading, _WIDE - 6) + (f" ({more} more are not named here)" if more else "")]
    heads += [""] * (len(blocks) - 1)
    return Styles(axes, by_arm, tuple(zip(heads, blocks, strict=True)))


def _arms_with_keys(outcomes: Outcomes) -> Iterator[tuple[tuple[str, ...], Mapping[str, str]]]:
    for arm in outcomes.arms():
        yield tuple(arm[axis] for axis in outcomes.axes), arm
