"""Counts of what two masks of a network both retain."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Mask = Mapping[str, "Tensor"]
"""By parameter, True where an entry gets a fresh value."""

Pair = Mapping[str, "MaskOverlap"]
"""What two masks share, by layer."""

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
"""How many bits of a byte are set; NumPy 1 lacks ``numpy.bitwise_count``."""


@dataclass(frozen=True)
class MaskOverlap:
    """Of the ``entries`` of a layer: how many each of two masks retains, and how many both do."""

    entries: int
    first: int
    second: int
    both: int

    @property
    def share(self) -> float | None:
        """``both`` as a share of ``first``; None if that is 0."""
        return self.both / self.first if self.first else None

    @property
    def jaccard(self) -> float | None:
        """``both`` as a share of what either retains; None if that is 0."""
        either = self.first + self.second - self.both
        return self.both / either if either else None

    @property
    def chance(self) -> float | None:
        """The mean of ``share`` if one of the masks is random within the layer."""
        return self.second / self.entries if self.entries else None

    @property
    def chosen(self) -> bool:
        """Whether each mask retains some entries and not all; otherwise chance has one outcome."""
        return 0 < self.first < self.entries and 0 < self.second < self.entries

    @property
    def corrected(self) -> float | None:
        """Overlap on a scale where 1 is the most that masks of one density can share and 0 is chance.

        Negative if the masks avoid each other; None if a mask retains all entries or none.
        """
        if not self.chosen:
            return None
        by_chance = self.first * self.second  # times the entries, so that there is one division of integers
        return (self.entries * self.both - by_chance) / (self.entries * self.first - by_chance)

    @property
    def deviation(self) -> float | None:
        """The standard deviation of ``corrected`` if one of the masks is random within the layer."""
        if not self.chosen:
            return None
        n, a, b = self.entries, self.first, self.second
        both = math.sqrt(a * b * (n - a) * (n - b) / (n - 1)) / n  # a hypergeometric distribution
        return both / (a * (1 - b / n))

    @property
    def details(self) -> dict[str, object]:
        """All counts and values, for JSON."""
        values = {key: getattr(self, key) for key in ("share", "jaccard", "chance", "corrected", "deviation")}
        return {"entries": self.entries, "retained": [self.first, self.second], "both": self.both, **values}

    @property
    def swapped(self) -> MaskOverlap:
        """The second mask first."""
        return MaskOverlap(self.entries, self.second, self.first, self.both)


@dataclass(frozen=True)
class Total:
    """The layers of a pair of masks taken together."""

    pair: Pair

    @property
    def share(self) -> float | None:
        """What both retain, of what the first retains."""
        return _ratio((s.both, s.first) for s in self.pair.values())

    @property
    def jaccard(self) -> float | None:
        """What both retain, of what either retains."""
        return _ratio((s.both, s.first + s.second - s.both) for s in self.pair.values())

    @property
    def corrected(self) -> float | None:
        """Against chance within each layer, so that layers of unequal density are no overlap."""
        chosen = [(s, s.first * s.second / s.entries) for s in self.pair.values() if s.chosen]
        return _ratio((s.both - by_chance, s.first - by_chance) for s, by_chance in chosen)

    @cached_property
    def summary(self) -> dict[str, float | None]:
        """All three values."""
        return {"share": self.share, "jaccard": self.jaccard, "corrected": self.corrected}


@dataclass(frozen=True)
class Retained:
    """The entries of a layer that a mask retains, a bit for each."""

    bits: NDArray[np.uint8]
    entries: int
    count: int

    @classmethod
    def of(cls, mask: Tensor) -> Retained:
        """The entries that a mask does not reset."""
        bits = np.packbits(~mask.detach().cpu().numpy().ravel())
        return cls(bits, mask.numel(), _ones(bits))

    def shared_with(self, other: Retained) -> MaskOverlap:
        """Count what a second mask retains too."""
        return MaskOverlap(self.entries, self.count, other.count, _ones(self.bits & other.bits))


def swapped(pair: Pair) -> Pair:
    """The second mask first."""
    return {name: shared.swapped for name, shared in pair.items()}


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def spread(values: Sequence[float | None]) -> float | None:
    """The standard deviation of the values that are not None, if there are two."""
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 else None


def _ones(bits: NDArray[np.uint8]) -> int:
    return int(_ONES[bits].sum(dtype=np.int64))


def _ratio(terms: Iterable[tuple[float, float]]) -> float | None:
    above, below = 0.0, 0.0
    for part, whole in terms:
        above, below = above + part, below + whole
    return above / below if below else None
