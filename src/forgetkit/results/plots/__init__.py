"""Pictures of an ablation: one per module, numbers read apart from the drawing.

matplotlib is imported when something is drawn, never before.
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
"""Each picture of the training itself, and what it shows."""
MISSING = "pictures need matplotlib: pip install 'forgetkit[plot]'"


def has_matplotlib() -> bool:
    """Whether pictures can be drawn here."""
    return find_spec("matplotlib") is not None


def draw_pictures(outcomes: Outcomes) -> dict[str, Figure]:
    """Each picture by its name, but for those that have nothing to show. A ``UsageError`` says what to install.

    Charts of answers come last, all arms in each: ``LABEL.CHART``, of common answers ``LABEL.all.CHART``.
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
    """What each of these pictures shows."""
    return CAPTIONS | {name: one.caption for name, one in layout.arm_layouts(outcomes).items()}


def draw_answer(label: str, answer: Answer, *, common: bool = False) -> dict[str, Figure]:
    """The charts of one answer as pictures, ``LABEL.CHART``; of one that is ``common`` to runs, ``LABEL.all.CHART``.

    No label and no chart has a dot in its name, so that each has a file of its own. A ``UsageError`` says what to
    install.
    """
    _require()
    return charts.answer_charts(label, answer, common=common)


def _require() -> None:
    if not has_matplotlib():
        raise UsageError(MISSING)
