"""Pictures of an ablation: one per module, numbers read apart from the drawing.

matplotlib is imported when something is drawn, never before.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from forgetkit.ablate.outcome import Outcomes
from forgetkit.ablate.plots import anytime, cost, errors, layers
from forgetkit.ablate.plots.canvas import WIDTH
from forgetkit.ablate.plots.files import save, svg
from forgetkit.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "MISSING", "WIDTH", "available", "pictures", "save", "svg"]

CAPTIONS = {"anytime": anytime.CAPTION, "errors": errors.CAPTION, "cost": cost.CAPTION, "layers": layers.CAPTION}
"""Each picture, and what it shows."""
MISSING = "pictures need matplotlib: pip install 'forgetkit[plot]'"


def available() -> bool:
    """Whether pictures can be drawn here."""
    return find_spec("matplotlib") is not None


def pictures(outcomes: Outcomes) -> dict[str, Figure]:
    """Each picture by its name, but for those that have nothing to show. A ``UsageError`` says what to install."""
    if not available():
        raise UsageError(MISSING)
    drawn = {
        "anytime": anytime.draw(outcomes),
        "errors": errors.draw(outcomes),
        "cost": cost.draw(outcomes),
        "layers": layers.draw(outcomes),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}
