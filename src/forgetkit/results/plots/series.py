"""The numbers of a picture of an ablation, before anything is drawn.

A result that lacks a number adds nothing; the other results count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from forgetkit.results.outcome import Outcomes
from forgetkit.results.statistics import Summary, summarize
from forgetkit.results.table import as_number

Arm = Mapping[str, str]
Result = Mapping[str, Any]


@dataclass(frozen=True)
class SeedCurve:
    """An arm along the stream: mean, deviation and count over its seeds, by the index of the mega-batch."""

    arm: Arm
    at: Mapping[int, Summary]


@dataclass(frozen=True)
class CostPoint:
    """(cost, accuracy) of each run of an arm, and the means."""

    arm: Arm
    runs: tuple[tuple[float, float], ...]

    @property
    def mean(self) -> tuple[float, float]:
        """Mean cost, mean accuracy."""
        return fmean(cost for cost, _ in self.runs), fmean(accuracy for _, accuracy in self.runs)


@dataclass(frozen=True)
class CostSeries:
    """Accuracy against cost; ``measure`` is the unit of the cost."""

    measure: str
    points: tuple[CostPoint, ...]


@dataclass(frozen=True)
class ResetShares:
    """The share of each layer that an arm resets, the mean over mega-batches and seeds; None if it has no such layer.

    ``layers`` are in the order of execution, as recorded; arms that reset nothing are left out.
    """

    layers: tuple[str, ...]
    arms: tuple[tuple[Arm, tuple[float | None, ...]], ...]


def number(value: Any) -> float | None:
    """A number that counts in tables too, as a float; else None."""
    found = as_number(value)
    return None if found is None else float(found)


def results(outcomes: Outcomes, arm: Arm) -> list[Result]:
    """The results of an arm's completed cells, by seed."""
    cells = outcomes.of(arm)
    return [cell.result for cell in cells if cell.status == "completed" and isinstance(cell.result, Mapping)]


def accuracies(outcomes: Outcomes) -> tuple[SeedCurve, ...]:
    """Test accuracy over the mega-batches, a fraction of one."""
    return _curves(outcomes, lambda rows: ((index, number(row.get("test_accuracy"))) for index, row in rows))


def errors(outcomes: Outcomes) -> tuple[SeedCurve, ...]:
    """Test errors so far over the mega-batches."""
    return _curves(outcomes, _summed)


def costs(outcomes: Outcomes) -> CostSeries:
    """Test accuracy against forward and backward passes if every result counts them, else against samples seen."""
    found = [result for arm in outcomes.arms() for result in results(outcomes, arm)]
    counted = bool(found) and all(_passes(result) is not None for result in found)
    cost = _passes if counted else _samples
    points = []
    for arm in outcomes.arms():
        pairs = [(cost(result), number(result.get("test_accuracy"))) for result in results(outcomes, arm)]
        runs = tuple((x, y) for x, y in pairs if x is not None and y is not None)
        if runs:
            points.append(CostPoint(arm, runs))
    return CostSeries("forward and backward passes" if counted else "samples seen", tuple(points))


def resets(outcomes: Outcomes) -> ResetShares:
    """The share of each layer that is reset between two mega-batches."""
    by_arm: list[tuple[Arm, dict[str, float]]] = []
    for arm in outcomes.arms():
        seeds = [_shares(result) for result in results(outcomes, arm)]
        layers = dict.fromkeys(layer for shares in seeds for layer in shares)
        means = {layer: fmean(shares[layer] for shares in seeds if layer in shares) for layer in layers}
        if any(means.values()):
            by_arm.append((arm, means))
    layers = dict.fromkeys(layer for _, means in by_arm for layer in means)
    return ResetShares(tuple(layers), tuple((arm, tuple(map(means.get, layers))) for arm, means in by_arm))


Rows = Sequence[tuple[int, Mapping[str, Any]]]


def _rows(result: Result) -> Rows:
    """Each mega-batch with its index."""
    return list(enumerate(result.get("mega_batches", ()), 1))


def _curves(outcomes: Outcomes, values: Callable[[Rows], Iterator[tuple[int, float | None]]]) -> tuple[SeedCurve, ...]:
    curves = []
    for arm in outcomes.arms():
        at: dict[int, list[float]] = {}
        for result in results(outcomes, arm):
            for index, value in values(_rows(result)):
                if value is not None:
                    at.setdefault(index, []).append(value)
        if at:
            curves.append(SeedCurve(arm, {index: summarize(at[index]) for index in sorted(at)}))
    return tuple(curves)


def _summed(rows: Rows) -> Iterator[tuple[int, float | None]]:
    """Errors so far; a mega-batch without a count ends the sum."""
    total = 0.0
    for index, row in rows:
        errors_made = number(row.get("test_errors"))
        if errors_made is None:
            return
        total += errors_made
        yield index, total


def _samples(result: Result) -> float | None:
    return number(result.get("samples_seen"))


def _passes(result: Result) -> float | None:
    forward, backward = number(result.get("forward_passes")), number(result.get("backward_passes"))
    return None if forward is None or backward is None else forward + backward


def _shares(result: Result) -> dict[str, float]:
    """The share of each layer that a run resets, the mean over its mega-batches."""
    shares: dict[str, list[float]] = {}
    for _, row in _rows(result):
        unlearn = row.get("unlearn") or {}
        for layer, counts in unlearn.get("layers", {}).items():
            if counts["size"]:
                shares.setdefault(layer, []).append(counts["reset"] / counts["size"])
    return {layer: fmean(found) for layer, found in shares.items()}
