"""Figures without pyplot, independent of the user's matplotlibrc: axes, curves, maps and the legend."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots.series import SeedCurve
from forgetkit.results.plots.styles import INK, Style, Styles, arm_styles, shorten
from forgetkit.results.render.formatting import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

WIDTH = 4.8
"""Inches: ten points are then ten pixels on a phone."""
_ROW = 0.19  # inches of a legend's row
_CROWD = 12  # more curves than these get a panel for each value of the axis with the colours


@contextmanager
def plot_style() -> Iterator[None]:
    """Set matplotlib's defaults and ours; restore the previous style afterwards."""
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
        # An SVG on a page shows the letter all the same; a PNG shows a box.
        warnings.filterwarnings("ignore", message=".*Glyph .* missing from font", category=UserWarning)
        yield


def blank_figure(styles: Styles | None, width: float, height: float) -> Figure:
    """A figure without axes; the legend of ``styles`` adds to its height."""
    from matplotlib.figure import Figure

    rows = 0 if styles is None else _has_headings(styles) + max(len(entries) for _, entries in styles.legend)
    figure = Figure(figsize=(width, height + _ROW * rows), layout="constrained")
    if styles is not None:
        _add_legend(figure, styles)
    return figure


def freeze_layout(figure: Figure) -> Figure:
    """Lay out once: every layout starts from the last one, and would change a file that is written later."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def points(axes: Axes, style: Style, at: Sequence[tuple[float, float]], size: float, alpha: float = 1.0) -> None:
    """Draw the points of one arm; ``size`` is their width in points."""
    options = {"color": style.colour, "marker": style.marker, "fillstyle": style.fill, "linestyle": "none"}
    axes.plot([x for x, _ in at], [y for _, y in at], markersize=size, alpha=alpha, **options)


def line(axes: Axes, style: Style, x: Sequence[float], y: Sequence[float], *, thin: bool) -> None:
    """Draw the line of one arm."""
    axes.plot(x, y, color=style.colour, linestyle=style.dash, linewidth=1.0 if thin else 1.5)


def curves(
    outcomes: Outcomes,
    found: Sequence[SeedCurve],
    label: str,
    factor: float = 1.0,
    bounds: tuple[float, float] = (0.0, math.inf),
) -> Figure | None:
    """Draw a line per arm over the mega-batches, in a band of one standard deviation if there are seeds.

    ``factor`` multiplies the values, and ``bounds`` end the band. Many arms get a panel for each value of the axis
    with the colours. None if there is nothing to draw.
    """
    if not found:
        return None
    with plot_style():
        styles = arm_styles(outcomes)
        panels: dict[str, list[SeedCurve]] = {}
        for curve in found:
            axis = styles.colour_axis if len(found) > _CROWD else None
            panels.setdefault("" if axis is None else f"{axis} {curve.arm[axis]}", []).append(curve)
        rows = -(-len(panels) // 2)
        figure = blank_figure(styles, WIDTH, 3.1 if len(found) <= _CROWD else max(4.4, 2.2 * rows))
        for place, (axes, (title, shown)) in enumerate(
            zip(subplots(figure, rows, min(2, len(panels)), len(panels)), panels.items(), strict=True)
        ):
            axes.set_title(shorten(one_line(title), 28), fontsize=9.5)
            _plot(axes, styles, shown, factor, bounds)
            axes.set_ylabel(label if place % 2 == 0 else "")
            if place + 2 >= len(panels):
                axes.set_xlabel("mega-batch")
                axes.tick_params(labelbottom=True)
        return freeze_layout(figure)


def subplots(figure: Figure, rows: int, columns: int, count: int) -> list[Axes]:
    """``count`` pairs of axes with the same scales, in rows."""
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes in grid[count:]:
        axes.remove()
    return grid[:count]


def _plot(axes: Axes, styles: Styles, found: Sequence[SeedCurve], factor: float, bounds: tuple[float, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    crowded = len(found) > _CROWD // 2
    for curve in found:
        style = styles.of(curve.arm)
        middle = {x: factor * s.mean for x, s in curve.at.items() if s.mean is not None}
        spread = {x: factor * s.std for x, s in curve.at.items() if s.std is not None}
        if spread:
            low = [max(bounds[0], middle[x] - std) for x, std in spread.items()]
            high = [min(bounds[1], middle[x] + std) for x, std in spread.items()]
            alpha = 0.06 if crowded else 0.16
            axes.fill_between(list(spread), low, high, color=style.colour, alpha=alpha, linewidth=0)
        line(axes, style, list(middle), list(middle.values()), thin=crowded)
        points(axes, style, list(middle.items()), 3.0 if crowded else 4.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def heat_map(
    axes: Axes,
    values: Sequence[Sequence[float]],
    limits: tuple[float, float],
    rows: Sequence[str],
    columns: Sequence[str],
    every: int,
    *,
    tilted: bool,
) -> QuadMesh:
    """Draw a field per row and column. ``limits`` are the ends of the colours; ``every`` how many rows share a name."""
    painted = axes.pcolormesh(values, cmap="cividis", vmin=limits[0], vmax=limits[1], edgecolors="none")
    axes.grid(visible=False)
    axes.set_yticks([row + 0.5 for row in range(0, len(rows), every)], rows[::every], fontsize=8.5)
    axes.set_ylim(len(rows), 0)
    middles = [column + 0.5 for column in range(len(columns))]
    axes.set_xticks(middles, columns, fontsize=8.5, rotation=90 if tilted else 0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return painted


def write_values(
    axes: Axes, values: Sequence[Sequence[float]], limits: tuple[float, float], figure: Callable[[float], str]
) -> None:
    """Write each value of a map into its field, dark on light colours; NaN is left out."""
    low, high = limits
    for row, found in enumerate(values):
        for column, value in enumerate(found):
            if not math.isnan(value):
                colour = "#000000" if value - low > 0.55 * (high - low) else "#ffffff"
                axes.text(column + 0.5, row + 0.5, figure(value), color=colour, fontsize=8, ha="center", va="center")


def colour_bar(figure: Figure, painted: QuadMesh, axes: Sequence[Axes], label: str) -> None:
    """Draw the colours of a map below it."""
    bar = figure.colorbar(painted, ax=axes, location="bottom", aspect=40, pad=0.02, shrink=0.8)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _has_headings(styles: Styles) -> bool:
    return any(heading for heading, _ in styles.legend)


def _add_legend(figure: Figure, styles: Styles) -> None:
    """Add columns of equal length, each below its heading, if there are any."""
    from matplotlib.lines import Line2D

    rows = max(len(entries) for _, entries in styles.legend)
    blank = Line2D([], [], linestyle="none")
    handles: list[Line2D] = []
    labels: list[str] = []
    heads: list[int] = []
    for heading, entries in styles.legend:
        if _has_headings(styles):
            heads.append(len(labels))
            handles.append(blank)
            labels.append(heading)
        for name, style in entries:
            handles.append(Line2D([], [], **_sample(style)))
            labels.append(name)
        padding = rows - len(entries)
        handles += [blank] * padding
        labels += [""] * padding
    legend = figure.legend(
        handles,
        ["." for _ in labels],
        loc="outside lower center",
        ncols=len(styles.legend),
        fontsize=9,
        handlelength=2.6,
        labelspacing=0.3,
        columnspacing=1.4,
    )
    for place, (text, label) in enumerate(zip(legend.get_texts(), labels, strict=True)):
        text.set_text(label)  # not above: a legend leaves out labels that begin with an underscore
        if place in heads:
            text.set_fontweight("bold")


def _sample(style: Style) -> dict[str, Any]:
    return {
        "color": style.colour,
        "linestyle": style.dash,
        "marker": style.marker,
        "fillstyle": style.fill,
        "markersize": 5,
    }
