"""Sensitivity: how much a result depends on learning rate and weight decay."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from forgetkit.contracts import Answer, Better, Chart, ComparedRun, Evidence, Measure, Series, Unit
from forgetkit.errors import InapplicableError

_AXES = ("lr", "weight_decay")
_GRID = "forgetkit ablate --over method=warm,lure --over lr=0.005,0.01,0.05,0.1 --over weight-decay=0,1e-4,5e-4,1e-3"
_KNOWN: dict[str, tuple[Unit, Better]] = {
    "test_accuracy": ("fraction", "higher"),
    "cer": ("count", "lower"),
    "generalization_gap": ("fraction", "lower"),
    "mean_anytime_error": ("fraction", "lower"),
}
"""Unit and direction of the protocol's numbers; for those of metrics both are unknown."""

GridPoint = tuple[float, float]
"""A learning rate and a weight decay."""


@dataclass(frozen=True)
class Sensitivity:
    """How much a number of the result depends on learning rate and weight decay, for each method of an ablation.

    Formula: range = max m(lr, wd) − min m(lr, wd) over the grid, m the mean of the metric over seeds.

    metric: the name of a number in the result.

    Cost: none; the runs are the grid. One run has no answer: the grid is an ablation over lr and weight-decay.

    Source: figures 5 and 8 of Ramkumar et al., 2023: t = 4, learning rates 0.005, 0.01, 0.05, 0.1, weight decays 0,
    1e-4, 5e-4, 1e-3. A method is a combination of the ablation's other axes.
    """

    metric: str = "test_accuracy"

    def analyze(self, evidence: Evidence) -> Answer:
        """Raise ``InapplicableError``: one run has one learning rate and one weight decay."""
        raise InapplicableError(f"a run has one learning rate and one weight decay; a grid has several: {_GRID}")

    def compare(self, cells: Sequence[ComparedRun]) -> Answer:
        """Map learning rate by weight decay for each method, the mean over seeds."""
        metric = self.metric.replace("-", "_")
        grid = _MetricGrid(metric, _gather_metric(cells, metric))
        if min(map(len, grid.axes)) < 2:
            rates, decays = grid.axes
            raise InapplicableError(
                f"the ablation has {_count(rates, 'learning rate')} and {_count(decays, 'weight decay')}; a grid has "
                f"several of both: {_GRID}"
            )
        every = [value for at in grid.means.values() for value in at.values()]
        meaning = "the highest less the lowest of a method, for the method with the largest difference"
        numbers = {
            "highest": Measure(max(every), None, grid.unit, meaning=f"the highest {metric} of the grid"),
            "lowest": Measure(min(every), None, grid.unit, meaning=f"the lowest {metric} of the grid"),
            "largest_range": Measure(max(grid.ranges.values()), "lower", grid.unit, meaning=meaning),
        }
        charts = [*grid.maps(), *([grid.bars()] if len(grid.runs) > 1 else [])]
        details = {"metric": metric, "methods": {method: grid.detail(method) for method in grid.runs}}
        return Answer(numbers, charts, details, list(grid.remarks()))


@dataclass(frozen=True)
class _MetricGrid:
    """The metric of each run, by method and grid point."""

    metric: str
    runs: Mapping[str, Mapping[GridPoint, Sequence[float]]]

    @property
    def unit(self) -> Unit:
        return _KNOWN[self.metric][0] if self.metric in _KNOWN else "number"

    @property
    def title(self) -> str:
        return self.metric.replace("_", " ")

    @cached_property
    def axes(self) -> tuple[list[float], list[float]]:
        """All learning rates and all weight decays, ascending."""
        places = {place for at in self.runs.values() for place in at}
        return sorted({rate for rate, _ in places}), sorted({decay for _, decay in places})

    @cached_property
    def means(self) -> dict[str, dict[GridPoint, float]]:
        """The mean over seeds, by method and grid point."""
        return {method: {place: fmean(own) for place, own in at.items()} for method, at in self.runs.items()}

    @cached_property
    def ranges(self) -> dict[str, float]:
        """The highest mean less the lowest, by method."""
        return {method: max(at.values()) - min(at.values()) for method, at in self.means.items()}

    def maps(self) -> Iterator[Chart]:
        """One map per method: a row per weight decay, a gap for a grid point without a run."""
        rates, decays = self.axes
        for name, (method, at) in zip(_names(self.metric, list(self.means)), self.means.items(), strict=True):
            rows = [Series(f"{decay:g}", rates, [at.get((rate, decay)) for rate in rates]) for decay in decays]
            caption = f"{method}: {self.title} by learning rate and weight decay, the mean over seeds."
            yield Chart(name, caption, "learning rate", "weight decay", rows, "heat", self.unit)

    def bars(self) -> Chart:
        """The ranges of the methods."""
        caption = f"How far {self.title} moves over learning rates and weight decays: its highest mean less its lowest."
        bars = Series("range", list(self.ranges), list(self.ranges.values()))
        return Chart("range", caption, "method", f"range of {self.title}", [bars], "bars", self.unit)

    def detail(self, method: str) -> dict[str, Any]:
        """All means of a method, and its best grid point."""
        at, best = self.means[method], None
        if self.metric in _KNOWN:
            choose = max if _KNOWN[self.metric][1] == "higher" else min
            value = choose(at.values())
            best = dict(zip(_AXES, next(place for place, mean in sorted(at.items()) if mean == value), strict=True))
        return {
            "highest": max(at.values()),
            "lowest": min(at.values()),
            "range": self.ranges[method],
            "best_at": best,
            "grid": [
                {**dict(zip(_AXES, place, strict=True)), "mean": mean, "runs": len(self.runs[method][place])}
                for place, mean in sorted(at.items())
            ],
        }

    def remarks(self) -> Iterator[str]:
        """Say which ranges are over a part of the grid, or over one seed."""
        places = math.prod(map(len, self.axes))
        for method, at in self.runs.items():
            if len(at) < places:
                yield f"{method}: {len(at)} of {places} combinations have a run, and its range is over these"
        seeds = {len(own) for at in self.runs.values() for own in at.values()}
        if seeds == {1}:
            yield "one seed each: a range includes the differences between seeds"
        elif len(seeds) > 1:
            yield f"combinations have {min(seeds)} to {max(seeds)} seeds each"


def _gather_metric(cells: Sequence[ComparedRun], metric: str) -> dict[str, dict[GridPoint, list[float]]]:
    """The metric of each run, by method and grid point."""
    known = [(cell, _number(cell.evidence.result, metric)) for cell in cells]
    if not any(value is not None for _, value in known):
        raise InapplicableError(f"no run has a number '{metric}' in its result: choose another metric")
    found: dict[str, dict[GridPoint, list[float]]] = {}
    for cell, value in known:
        config = cell.evidence.result.get("config") or {}
        rate, decay = (_number(config, axis) for axis in _AXES)
        if value is not None and rate is not None and decay is not None:
            found.setdefault(_method(cell), {}).setdefault((rate, decay), []).append(value)
    return found


def _method(cell: ComparedRun) -> str:
    """The other axes of an arm; without any, the method in the result."""
    rest = [value for axis, value in cell.arm.items() if axis.replace("-", "_") not in _AXES]
    return ", ".join(rest) or str(cell.evidence.result.get("method") or "all")


def _number(among: Mapping[str, Any], key: str) -> float | None:
    value = among.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]


def _count(values: Sequence[float], what: str) -> str:
    return f"{len(values) or 'no'} {what}{'' if len(values) == 1 else 's'}"


def _names(metric: str, methods: Sequence[str]) -> list[str]:
    """A unique name for each method's map."""
    stem, *words = (re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] for text in (metric, *methods))
    stem = stem or "metric"
    if len(words) == 1:
        return [stem]
    return [
        f"{stem}-{word}" if word and words.count(word) == 1 else f"{stem}_{place}"
        for place, word in enumerate(words, 1)
    ]
