"""Masks of several runs against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from forgetkit.builtin.analyses._sharing import Mask, Pair, Retained, Shared, Total, mean, turned
from forgetkit.contracts import Asked, Chart, Series
from forgetkit.errors import DoesNotApplyError


@dataclass(frozen=True)
class Across:
    """Pairs of runs, by their places: of two arms at one seed, or of two seeds of one arm."""

    labels: tuple[str, ...]
    """Of the arms."""
    arm_of: tuple[int, ...]
    """The arm of each run."""
    seeds: tuple[int, ...]
    """Of each run."""
    pairs: Mapping[tuple[int, int], Pair]

    @classmethod
    def of(cls, runs: Sequence[tuple[Asked, Mask]]) -> Across:
        """Of the runs as they stand, a layer of all of them at a time."""
        cells = [cell for cell, _ in runs]
        axes = [axis for axis in cells[0].arm if len({cell.arm.get(axis) for cell in cells}) > 1]
        named = [", ".join(f"{axis}={cell.arm.get(axis)}" for axis in axes) or "all" for cell in cells]
        labels = tuple(dict.fromkeys(named))
        arm_of = tuple(labels.index(name) for name in named)
        wanted = [
            (i, j)
            for i, j in combinations(range(len(cells)), 2)
            if (arm_of[i] == arm_of[j]) != (cells[i].seed == cells[j].seed)
        ]
        pairs: dict[tuple[int, int], dict[str, Shared]] = {pair: {} for pair in wanted}
        for name in runs[0][1]:
            layer = [Retained.of(mask[name]) for _, mask in runs]
            for i, j in wanted:
                pairs[i, j][name] = layer[i].shared_with(layer[j])
        return cls(labels, arm_of, tuple(cell.seed for cell in cells), pairs)

    def corrected(self, same_arm: bool) -> list[float | None]:
        """Of each pair of runs."""
        return [
            Total(pair).corrected
            for (i, j), pair in self.pairs.items()
            if (self.arm_of[i] == self.arm_of[j]) == same_arm
        ]

    @property
    def details(self) -> list[dict[str, Any]]:
        """Each pair of runs, over all layers."""
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
        """Pairs of runs under the names of their two arms, or of the one: arms first, as they are in the ablation."""
        found: dict[tuple[int, int], list[Pair]] = defaultdict(list)
        for (i, j), pair in self.pairs.items():
            a, b = self.arm_of[i], self.arm_of[j]
            found[min(a, b), max(a, b)].append(pair if a <= b else turned(pair))
        inside = {f"seeds of {self.labels[a]}": pairs for (a, b), pairs in sorted(found.items()) if a == b}
        between = {f"{self.labels[a]} and {self.labels[b]}": pairs for (a, b), pairs in sorted(found.items()) if a != b}
        return {**between, **inside}

    def heat(self, after: int) -> Chart:
        """Arms against arms; on the diagonal the seeds of one."""
        cells: dict[tuple[int, int], list[float | None]] = defaultdict(list)
        for (i, j), pair in self.pairs.items():
            a, b = self.arm_of[i], self.arm_of[j]
            cells[a, b].append(Total(pair).corrected)
            cells[b, a].append(Total(turned(pair)).corrected)
        every = range(len(self.labels))
        return Chart(
            name="arms",
            caption=f"What the masks after mega-batch {after} share beyond chance, at one seed; on the diagonal, "
            "between the seeds of an arm.",
            x_label="with",
            y_label="of",
            series=[Series(self.labels[a], self.labels, [mean(cells[a, b]) for b in every]) for a in every],
            kind="heat",
            unit="fraction",
        )


class LeftOut:
    """Runs that are not compared, and why."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], list[int]] = {}

    def add(self, cell: Asked, reason: str) -> None:
        """Those of an arm that lack the same are told of together."""
        arm = ", ".join(f"{axis}={value}" for axis, value in cell.arm.items()) or "the run"
        self._runs.setdefault((arm, reason), []).append(cell.seed)

    @contextmanager
    def noting(self, cell: Asked) -> Iterator[None]:
        """Meanwhile it may be found that the question does not apply to the run."""
        try:
            yield
        except DoesNotApplyError as error:
            self.add(cell, str(error))

    @property
    def remarks(self) -> list[str]:
        """A line for each arm and reason."""
        return [
            f"left out: {arm}, seed {' '.join(map(str, seeds))}: {reason}"
            for (arm, reason), seeds in self._runs.items()
        ]

    def require(self, runs: Sequence[object]) -> None:
        """Two of them at least."""
        if len(runs) < 2:
            why = f" ({'; '.join(self.remarks[:2])})" if self._runs else ""
            raise DoesNotApplyError(f"two runs with masks are needed to compare them, and there is {len(runs)}{why}")
