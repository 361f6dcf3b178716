"""Pictures of an ablation, one per module; ``series`` and ``layout`` compute, the others draw.

matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from forgetkit.contracts import Answer
from forgetkit.errors import UsageError
from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots import anytime, charts, cost, errors, layers, layout
from forgetkit.results.plots.canvas import WIDTH
from forgetkit.results.plots.files import save, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CAPTIONS",
    "MISSING",
    "WIDTH",
    "captions",
    "draw_answer",
    "draw_pictures",
    "has_matplotlib",
    "save",
    "svg",
]

CAPTIONS = {"anytime": anytime.CAPTION, "errors": errors.CAPTION, "cost": cost.CAPTION, "layers": layers.CAPTION}
"""The caption of each picture of the training."""
MISSING = "pictures need matplotlib: pip install 'forgetkit[plot]'"


def has_matplotlib() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_pictures(outcomes: Outcomes) -> dict[str, Figure]:
    """Draw each picture that has something to show, by name.

    Charts of answers come last, all arms in each: ``LABEL.CHART``, of common answers ``LABEL.all.CHART``. Raises
    ``UsageError`` if matplotlib is missing.
    """
    _require()
    drawn = {
        "anytime": anytime.draw(outcomes),
        "errors": errors.draw(outcomes),
        "cost": cost.draw(outcomes),
        "layers": layers.draw(outcomes),
    }
    found = {name: figure for name, figure in drawn.items() if figure is not None}
    return found | charts.arm_charts(outcomes)


def captions(outcomes: Outcomes) -> dict[str, str]:
    """The caption of each of these pictures."""
    return CAPTIONS | {name: one.caption for name, one in layout.arm_layouts(outcomes).items()}


def draw_answer(label: str, answer: Answer, *, common: bool = False) -> dict[str, Figure]:
    """Draw the charts of one answer, ``LABEL.CHART``; of one that is ``common`` to runs, ``LABEL.all.CHART``.

    Labels and names of charts have no dot, so that each chart has a file of its own. Raises ``UsageError`` if
    matplotlib is missing.
    """
    _require()
    return charts.answer_charts(label, answer, common=common)


def _require() -> None:
    if not has_matplotlib():
        raise UsageError(MISSING)
