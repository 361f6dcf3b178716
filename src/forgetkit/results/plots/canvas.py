"""Figures without pyplot: a look of our own whatever the user's matplotlibrc, axes, curves and the legend."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots.series import SeedCurve
from forgetkit.results.plots.styles import INK, Style, Styles, arm_styles, shorten
from forgetkit.results.render.formatting import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8
"""Inches: ten points are then ten pixels on a phone."""
_ROW = 0.19
"""Inches of a legend's row."""
_CROWD = 12
"""More curves than these have fainter bands, thinner lines and smaller points."""


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw and save the same here as anywhere; what was set before is set again afterwards."""
    from matplotlib import style

    ours = {
        "axes.axisbelow": True,
        "axes.edgecolor": INK,
        "axes.formatter.useoffset": False,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 10.0,
        "grid.alpha": 0.15,
        "grid.color": INK,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "forgetkit",
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with style.context(["default", ours]), warnings.catch_warnings():
        # A page shows the letter all the same; a PNG has a box in its place.
        warnings.filterwarnings("ignore", message=".*Glyph .* missing from font", category=UserWarning)
        yield


def figure(looks: Styles | None = None, width: float = WIDTH, height: float = 3.1) -> tuple[Figure, Axes]:
    """A figure with one pair of axes and, below, the legend of ``arm_styles``."""
    made = blank_figure(looks, width, height)
    return made, made.add_subplot()


def freeze_layout(made: Figure) -> Figure:
    """Lay it out once and for all: every layout starts from the one before, and would change a file written later."""
    made.draw_without_rendering()
    made.set_layout_engine("none")
    return made


def points(axes: Axes, look: Style, at: Sequence[tuple[float, float]], size: float, alpha: float = 1.0) -> None:
    """Points of one arm; ``size`` in points across."""
    style = {"color": look.colour, "marker": look.marker, "fillstyle": look.fill, "linestyle": "none"}
    axes.plot([x for x, _ in at], [y for _, y in at], markersize=size, alpha=alpha, **style)


def curves(
    outcomes: Outcomes,
    found: Sequence[SeedCurve],
    label: str,
    factor: float = 1.0,
    bounds: tuple[float, float] = (0.0, math.inf),
) -> Figure | None:
    """A line per arm over the mega-batches, in a band of one standard deviation either way where there are seeds.

    ``factor`` multiplies the values; what is shown lies within ``bounds``, and so does the band. A crowd is parted
    into panels of equal scales where an axis parts it. None where there is nothing to draw.
    """
    if not found:
        return None
    with plot_style():
        told = arm_styles(outcomes)
        panels = {"": list(found)}
        if len(found) > _CROWD and told.apart is not None:
            panels = {}
            for curve in found:
                panels.setdefault(f"{told.apart} {curve.arm[told.apart]}", []).append(curve)
        rows = -(-len(panels) // 2)
        made = blank_figure(told, WIDTH, 3.1 if len(found) <= _CROWD else max(4.4, 2.2 * rows))
        grid = made.subplots(rows, min(2, len(panels)), sharex=True, sharey=True, squeeze=False).flat
        for place, axes in enumerate(grid):
            if place >= len(panels):
                axes.remove()
                continue
            title, shown = list(panels.items())[place]
            axes.set_title(shorten(one_line(title), 28), fontsize=9.5)
            _plot(axes, told, shown, factor, bounds)
            axes.set_ylabel(label if place % 2 == 0 else "")
            if place + 2 >= len(panels):
                axes.set_xlabel("mega-batch")
                axes.tick_params(labelbottom=True)
        return freeze_layout(made)


def _plot(axes: Axes, looks: Styles, found: Sequence[SeedCurve], factor: float, bounds: tuple[float, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    crowded = len(found) > _CROWD // 2
    for curve in found:
        look = looks.of(curve.arm)
        middle = {x: factor * s.mean for x, s in curve.at.items() if s.mean is not None}
        spread = {x: factor * s.std for x, s in curve.at.items() if s.std is not None}
        if spread:
            low = [max(bounds[0], middle[x] - std) for x, std in spread.items()]
            high = [min(bounds[1], middle[x] + std) for x, std in spread.items()]
            alpha = 0.06 if crowded else 0.16
            axes.fill_between(list(spread), low, high, color=look.colour, alpha=alpha, linewidth=0)
        line = {"linestyle": look.dash, "linewidth": 1.0 if crowded else 1.5}
        axes.plot(list(middle), list(middle.values()), color=look.colour, **line)
        points(axes, look, list(middle.items()), 3.0 if crowded else 4.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def blank_figure(looks: Styles | None, width: float, height: float) -> Figure:
    """A figure without axes; what the legend of ``arm_styles`` takes is added to its height."""
    from matplotlib.figure import Figure

    rows = 0 if looks is None else _has_headings(looks) + max(len(entries) for _, entries in looks.legend)
    made = Figure(figsize=(width, height + _ROW * rows), layout="constrained")
    if looks is not None:
        _add_legend(made, looks)
    return made


def _has_headings(looks: Styles) -> bool:
    """Whether columns of the legend have headings."""
    return any(heading for heading, _ in looks.legend)


def _add_legend(made: Figure, looks: Styles) -> None:
    """Columns of equal length, each under its heading, if there are any."""
    from matplotlib.lines import Line2D

    rows = max(len(entries) for _, entries in looks.legend)
    blank = Line2D([], [], linestyle="none")
    handles: list[Line2D] = []
    labels: list[str] = []
    heads: list[int] = []
    for heading, entries in looks.legend:
        if _has_headings(looks):
            heads.append(len(labels))
            handles.append(blank)
            labels.append(heading)
        for name, look in entries:
            handles.append(Line2D([], [], **_sample(look)))
            labels.append(name)
        padding = rows - len(entries)
        handles += [blank] * padding
        labels += [""] * padding
    legend = made.legend(
        handles,
        ["." for _ in labels],
        loc="outside lower center",
        ncols=len(looks.legend),
        fontsize=9,
        handlelength=2.6,
        labelspacing=0.3,
        columnspacing=1.4,
    )
    for place, (text, label) in enumerate(zip(legend.get_texts(), labels, strict=True)):
        text.set_text(label)  # only now: a legend leaves out what begins with an underscore
        if place in heads:
            text.set_fontweight("bold")


def _sample(look: Style) -> dict[str, Any]:
    return {
        "color": look.colour,
        "linestyle": look.dash,
        "marker": look.marker,
        "fillstyle": look.fill,
        "markersize": 5,
    }
