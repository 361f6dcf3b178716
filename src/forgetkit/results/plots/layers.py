"""Which layers are reset, and how much of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots import canvas, series
from forgetkit.results.plots.styles import arm_names, shorten
from forgetkit.results.render.formatting import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "The share of each parameter's entries that a forgetting resets, the mean over mega-batches and seeds; "
    "layers in the order of execution. Arms that reset nothing are left out."
)
_FIGURES_UP_TO = 8
"""Arms whose shares are written into the map."""
_LABELS = 80
"""Layers that are named at most; of more, every second or third is."""


def draw(outcomes: Outcomes) -> Figure | None:
    """A map of arms by layers; None where nothing was reset."""
    found = series.resets(outcomes)
    if not found.arms:
        return None
    with canvas.plot_style():
        rows, columns = len(found.layers), len(found.arms)
        called = arm_names(outcomes)
        heads = [shorten(called[tuple(arm[axis] for axis in outcomes.axes)], 34) for arm, _ in found.arms]
        tilted = sum(len(head) + 3 for head in heads) > 40
        every = -(-rows // _LABELS)
        height = 1.2 + 0.2 * rows / every + (0.085 * max(map(len, heads)) if tilted else 0.2)
        made, axes = canvas.figure(width=max(canvas.WIDTH, 2.6 + 0.2 * columns), height=height)
        shares = [[100 * (arm[row] or 0.0) for _, arm in found.arms] for row in range(rows)]
        painted = axes.pcolormesh(shares, cmap="cividis", vmin=0.0, edgecolors="none")
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_yticks(
            [row + 0.5 for row in range(0, rows, every)],
            [shorten(one_line(layer), 34) for layer in found.layers[::every]],
            fontsize=8.5,
        )
        axes.set_xticks([column + 0.5 for column in range(columns)], heads, fontsize=8.5, rotation=90 if tilted else 0)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        for spine in axes.spines.values():
            spine.set_visible(False)
        if columns <= _FIGURES_UP_TO and every == 1:
            _write(axes, shares)
        bar = made.colorbar(painted, ax=axes, location="bottom", aspect=40, pad=0.02, shrink=0.8)
        bar.set_label("share that is reset (%)")
        bar.outline.set_visible(False)
        return canvas.freeze_layout(made)


def _write(axes: Axes, shares: list[list[float]]) -> None:
    """Each share in figures, dark on what is light."""
    highest = max(map(max, shares))
    for row, found in enumerate(shares):
        for column, share in enumerate(found):
            colour = "#000000" if share > 0.55 * highest else "#ffffff"
            axes.text(column + 0.5, row + 0.5, f"{share:.1f}", color=colour, fontsize=8, ha="center", va="center")
