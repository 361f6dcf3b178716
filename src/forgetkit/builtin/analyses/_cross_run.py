"""Overlap of the masks of several runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from forgetkit.builtin.analyses._mask_overlap import Mask, MaskOverlap, Pair, Retained, Total, mean, swapped
from forgetkit.contracts import Chart, ComparedRun, Series
from forgetkit.errors import InapplicableError


@dataclass(frozen=True)
class CrossRun:
    """Pairs of runs, by their positions: two arms at one seed, or two seeds of one arm."""

    arms: tuple[tuple[str, ...], ...]
    """The values of each arm on the axes in which arms differ, as ``axis=value``."""
    arm_of: tuple[int, ...]
    """The position of each run's arm."""
    seeds: tuple[int, ...]
    """The seed of each run."""
    pairs: Mapping[tuple[int, int], Pair]

    @classmethod
    def of(cls, runs: Sequence[tuple[ComparedRun, Mask]]) -> CrossRun:
        """Compare runs, one layer of all of them at a time."""
        cells = [cell for cell, _ in runs]
        axes = [axis for axis in cells[0].arm if len({cell.arm.get(axis) for cell in cells}) > 1]
        values = [tuple(f"{axis}={cell.arm.get(axis)}" for axis in axes) for cell in cells]
        arms = tuple(dict.fromkeys(values))
        arm_of = tuple(arms.index(arm) for arm in values)
        wanted = [
            (i, j)
            for i, j in combinations(range(len(cells)), 2)
            if (arm_of[i] == arm_of[j]) != (cells[i].seed == cells[j].seed)
        ]
        pairs: dict[tuple[int, int], dict[str, MaskOverlap]] = {pair: {} for pair in wanted}
        for name in runs[0][1]:
            layer = [Retained.of(mask[name]) for _, mask in runs]
            for i, j in wanted:
                pairs[i, j][name] = layer[i].shared_with(layer[j])
        return cls(arms, arm_of, tuple(cell.seed for cell in cells), pairs)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the arms."""
        return tuple(", ".join(arm) or "all" for arm in self.arms)

    def corrected(self, same_arm: bool) -> list[float | None]:
        """The overlap beyond chance of each pair of runs of the same arm, or of different arms."""
        return [
            Total(pair).corrected
            for (i, j), pair in self.pairs.items()
            if (self.arm_of[i] == self.arm_of[j]) == same_arm
        ]

    @property
    def details(self) -> list[dict[str, Any]]:
        """The overlap of each pair of runs over all layers, for JSON."""
        return [
            {
                "arms": [self.labels[self.arm_of[run]] for run in places],
                "seeds": [self.seeds[run] for run in places],
                **Total(pair).summary,
            }
            for places, pair in self.pairs.items()
        ]

    @cached_property
    def grouped(self) -> dict[str, list[Pair]]:
        """Pairs of runs by the names of their arms.

        Arms that differ in one axis come first, then the seeds of each arm, then other arms, in the ablation's order.
        """
        found: dict[tuple[int, int], list[Pair]] = defaultdict(list)
        for (i, j), pair in self.pairs.items():
            a, b = self.arm_of[i], self.arm_of[j]
            found[min(a, b), max(a, b)].append(pair if a <= b else swapped(pair))
        order = {1: 0, 0: 1}  # by the number of axes in which they differ
        places = sorted(found, key=lambda arms: (order.get(self._differ(*arms), 2), arms))
        return {self._named(a, b): found[a, b] for a, b in places}

    def _differ(self, a: int, b: int) -> int:
        """In how many axes two arms differ."""
        return sum(one != other for one, other in zip(self.arms[a], self.arms[b], strict=True))

    def _named(self, a: int, b: int) -> str:
        return f"seeds of {self.labels[a]}" if a == b else f"{self.labels[a]} and {self.labels[b]}"

    def heat(self, after: int) -> Chart:
        """A heat map of arms by arms; on the diagonal, the seeds of one arm."""
        cells: dict[tuple[int, int], list[float | None]] = defaultdict(list)
        for (i, j), pair in self.pairs.items():
            a, b = self.arm_of[i], self.arm_of[j]
            cells[a, b].append(Total(pair).corrected)
            cells[b, a].append(Total(swapped(pair)).corrected)
        every = range(len(self.labels))
        caption = (
            f"What the masks after mega-batch {after} share beyond chance, at one seed; on the diagonal, between the "
            "seeds of an arm."
        )
        rows = [Series(self.labels[a], self.labels, [mean(cells[a, b]) for b in every]) for a in every]
        return Chart("arms", caption, "with", "of", rows, "heat", "fraction")


class LeftOutRuns:
    """Runs that are not compared, and the reasons."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], list[int]] = {}

    def add(self, cell: ComparedRun, reason: str) -> None:
        """Add a run; runs of one arm with the same reason share a remark."""
        arm = ", ".join(f"{axis}={value}" for axis, value in cell.arm.items()) or "the run"
        self._runs.setdefault((arm, reason), []).append(cell.seed)

    @contextmanager
    def catching(self, cell: ComparedRun) -> Iterator[None]:
        """Add the run if ``InapplicableError`` is raised inside."""
        try:
            yield
        except InapplicableError as error:
            self.add(cell, str(error))

    @property
    def remarks(self) -> list[str]:
        """One remark for each arm and reason."""
        return [
            f"left out: {arm}, seed {' '.join(map(str, seeds))}: {reason}"
            for (arm, reason), seeds in self._runs.items()
        ]

    def require(self, runs: Sequence[object]) -> None:
        """Raise ``InapplicableError`` if there are fewer than two runs."""
        if len(runs) < 2:
            why = f" ({'; '.join(self.remarks[:2])})" if self._runs else ""
            raise InapplicableError(f"a comparison needs two runs with masks, and there is {len(runs)}{why}")
