"""Test accuracy over the mega-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots import canvas, series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = "Test accuracy after each mega-batch: the mean over seeds, in a band of one standard deviation either way."


def draw(outcomes: Outcomes) -> Figure | None:
    """Draw a line per arm; None if no result has an accuracy."""
    return canvas.curves(outcomes, series.accuracies(outcomes), "test accuracy (%)", 100.0, (0.0, 100.0))
