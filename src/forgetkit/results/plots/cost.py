"""Test accuracy against what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots import canvas, series
from forgetkit.results.plots.styles import arm_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = "Test accuracy at the end against cost: a small point per run, a large one for the mean of an arm."


def draw(outcomes: Outcomes) -> Figure | None:
    """A point per run and a mean per arm; None where no result has both numbers."""
    found = series.costs(outcomes)
    if not found.spots:
        return None
    from matplotlib.ticker import EngFormatter, MaxNLocator

    with canvas.plot_style():
        told = arm_styles(outcomes)
        made, axes = canvas.figure(told)
        for spot in found.spots:
            canvas.points(
                axes, told.of(spot.arm), [(cost, 100 * accuracy) for cost, accuracy in spot.runs], 3.5, alpha=0.35
            )
        for spot in found.spots:
            cost, accuracy = spot.mean
            canvas.points(axes, told.of(spot.arm), [(cost, 100 * accuracy)], 7.5)
        axes.set_xlabel(found.measure)
        axes.set_ylabel("test accuracy (%)")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        return canvas.freeze_layout(made)
