"""What several analyses need to build an answer: measures, charts, means of a curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from forgetkit.contracts import Better, Bounds, Chart, Measure, Series


def fraction(
    value: float | None, meaning: str, better: Better | None = None, bounds: Bounds = (0, 1), title: str = ""
) -> Measure:
    """A measure that is shown in per cent."""
    return Measure(value, better, "fraction", title, meaning, bounds)


def lines(name: str, caption: str, x_label: str, y_label: str, *series: Series, diagonal: bool = False) -> Chart:
    """A chart of fractions as lines."""
    return Chart(name, caption, x_label, y_label, list(series), unit="fraction", diagonal=diagonal)


def bars(name: str, caption: str, x_label: str, y_label: str, *series: Series) -> Chart:
    """A chart of fractions as bars."""
    return Chart(name, caption, x_label, y_label, list(series), "bars", "fraction")


def finite(value: float | None) -> float | None:
    """The value, or None if it is NaN or infinite, which JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None


def all_finite(values: Sequence[float | None]) -> list[float | None]:
    """The values, with None for each that is NaN or infinite."""
    return [finite(value) for value in values]


def mean_height(curve: Mapping[float, float]) -> float:
    """The mean of a curve that begins at 0, on straight lines between its points; their ``x`` ascend."""
    points = pairwise(curve.items())
    return sum((b - a) * (low + high) / 2 for (a, low), (b, high) in points) / max(curve)
