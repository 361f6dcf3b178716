"""Test errors so far over the mega-batches, which end in the cumulative error rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots import canvas, series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Test errors so far, which end in the CER: the mean over seeds, in a band of one standard deviation either way."
)


def draw(outcomes: Outcomes) -> Figure | None:
    """Draw a line per arm; None if no result counts errors."""
    return canvas.curves(outcomes, series.errors(outcomes), "test errors so far")
