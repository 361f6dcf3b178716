"""Test accuracy against cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots import canvas, series
from forgetkit.results.plots.styles import arm_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = "Test accuracy at the end against cost: a small point per run, a large one for the mean of an arm."


def draw(outcomes: Outcomes) -> Figure | None:
    """Draw a point per run and a mean per arm; None if no result has both numbers."""
    found = series.costs(outcomes)
    if not found.points:
        return None
    from matplotlib.ticker import EngFormatter, MaxNLocator

    with canvas.plot_style():
        styles = arm_styles(outcomes)
        figure = canvas.blank_figure(styles, canvas.WIDTH, 3.1)
        axes = figure.add_subplot()
        for point in found.points:
            runs = [(cost, 100 * accuracy) for cost, accuracy in point.runs]
            canvas.points(axes, styles.of(point.arm), runs, 3.5, alpha=0.35)
        for point in found.points:
            cost, accuracy = point.mean
            canvas.points(axes, styles.of(point.arm), [(cost, 100 * accuracy)], 7.5)
        axes.set_xlabel(found.measure)
        axes.set_ylabel("test accuracy (%)")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        return canvas.freeze_layout(figure)
