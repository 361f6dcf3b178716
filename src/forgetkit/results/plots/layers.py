"""The share of each layer that is reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots import canvas, series
from forgetkit.results.plots.styles import arm_names, shorten
from forgetkit.results.render.formatting import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "The share of each parameter's entries that a forgetting resets, the mean over mega-batches and seeds; "
    "layers in the order of execution. Arms that reset nothing are left out."
)
_FIGURES_UP_TO = 8  # arms whose shares are written into the map
_LABELS = 80  # layers that are named; of more, every second or third is


def draw(outcomes: Outcomes) -> Figure | None:
    """Draw a map of arms by layers; None if nothing was reset."""
    found = series.resets(outcomes)
    if not found.arms:
        return None
    with canvas.plot_style():
        names = arm_names(outcomes)
        columns = [shorten(names[outcomes.key(arm)], 34) for arm, _ in found.arms]
        rows = [shorten(one_line(layer), 34) for layer in found.layers]
        tilted = sum(len(name) + 3 for name in columns) > 40
        every = -(-len(rows) // _LABELS)
        height = 1.2 + 0.2 * len(rows) / every + (0.085 * max(map(len, columns)) if tilted else 0.2)
        figure = canvas.blank_figure(None, max(canvas.WIDTH, 2.6 + 0.2 * len(columns)), height)
        axes = figure.add_subplot()
        shares = [[100 * (arm[row] or 0.0) for _, arm in found.arms] for row in range(len(rows))]
        limits = 0.0, max(map(max, shares))
        painted = canvas.heat_map(axes, shares, limits, rows, columns, every, tilted=tilted)
        axes.xaxis.tick_top()
        if len(columns) <= _FIGURES_UP_TO and every == 1:
            canvas.write_values(axes, shares, limits, "{:.1f}".format)
        canvas.colour_bar(figure, painted, [axes], "share that is reset (%)")
        return canvas.freeze_layout(figure)
