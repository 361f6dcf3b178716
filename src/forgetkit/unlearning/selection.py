"""Exact selection at any size: a fraction of the lowest (or highest) scores of a whole model.

One pass over the scores finds the k-th smallest, another writes the masks: linear time, and beside the scores a bit
for each of them and a few candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forgetkit.contracts import Rounding, Ties, Which
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds
from forgetkit.unlearning import radix_select
from forgetkit.unlearning.masks import Masks, pack_mask
from forgetkit.unlearning.radix_select import Keys, count_true
from forgetkit.unlearning.score_keys import ScoreKeys
from forgetkit.unlearning.selection_group import SelectionGroup

DrawnTies = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Which tied entries are selected, by their positions among all that tie."""


def count_of(fraction: float, total: int, rounding: Rounding = "down") -> int:
    """``floor`` or ``ceil`` of ``fraction * total``, exact for the decimal number as written (0.29 of 100 is 29)."""
    if not 0 <= fraction <= 1:
        raise OptionError(f"fraction={fraction} is not between 0 (reset nothing) and 1 (reset everything)")
    return (math.floor if rounding == "down" else math.ceil)(Fraction(str(fraction)) * total)


@dataclass(frozen=True, eq=False)
class Selection:
    """Masks, and the threshold that they are made by: None if nothing is selected.

    ``tied`` of the ``entries`` have the score at the threshold; both counts are over all processes.
    """

    masks: Masks
    threshold: float | None
    tied: int
    entries: int


def select(
    scores: Mapping[str, Tensor],
    fraction: float,
    seeds: Seeds,
    *,
    which: Which = "lowest",
    ties: Ties = "random",
    rounding: Rounding = "down",
    processes: SelectionGroup | None = None,
) -> tuple[Masks, float | None]:
    """The masks and the threshold of :func:`selection`."""
    found = selection(scores, fraction, seeds, which=which, ties=ties, rounding=rounding, processes=processes)
    return found.masks, found.threshold


def selection(
    scores: Mapping[str, Tensor],
    fraction: float,
    seeds: Seeds,
    *,
    which: Which = "lowest",
    ties: Ties = "random",
    rounding: Rounding = "down",
    processes: SelectionGroup | None = None,
) -> Selection:
    """Masks over a fraction of the entries, those with the lowest or highest scores, and the threshold.

    One threshold over the pooled entries of all tensors: the score of the last entry that is needed, None where
    none is. Of the entries that tie there, as many as are needed are drawn at random, each set equally likely, from
    the stream ``"ties"`` of ``seeds``; with ``ties="stable"`` they are the first; ``ties="drop"`` takes all of them,
    which can be far more than the fraction. With ``processes`` the masks are this process's part of what a single
    process that holds the scores of all, in the order of their ranks, would get.
    """
    processes = processes or SelectionGroup()
    count_of(fraction, 0)  # refuses a fraction before anything is read
    options = f"fraction={float(fraction)}, which={which}, ties={ties}, rounding={rounding}"
    pool = ScoreKeys.of(scores, processes, options)
    wanted = count_of(fraction, pool.total, rounding)
    if wanted == 0:
        cut, threshold, equal = (
            _Threshold(radix_select.least_integer(pool.bits), True),
            None,
            0,
        )  # which is the key of no score
    else:
        lowest = which == "lowest"
        found = pool.kth_smallest(wanted if lowest else pool.total - wanted + 1, processes)
        beyond = found.below if lowest else pool.total - found.below - found.equal
        cut, threshold, equal = _Threshold(found.key, lowest), pool.value_of(found.key), found.equal
        if ties == "drop":
            wanted = beyond + found.equal
        elif wanted < beyond + found.equal:
            tied = _TieBreaker.of(pool, found, processes)
            cut.drawn = tied.first(wanted - beyond) if ties == "stable" else tied.drawn(wanted - beyond, seeds)
            cut.position = tied.start
    masks = Masks({name: (_bits(score, pool, cut), score.shape) for name, score in scores.items()})
    if int(processes.total([cut.taken])[0]) != wanted:
        raise ComponentError(radix_select.CHANGED)
    processes.end()
    return Selection(masks, threshold, equal, pool.total)


@dataclass
class _Threshold:
    """Which keys are selected: those beyond one key, and those equal to it or, where some are drawn, some of them."""

    key: int
    lowest: bool
    drawn: DrawnTies | None = None
    position: int = 0
    """Of the next tied entry among all that tie."""
    taken: int = 0

    def __call__(self, keys: Keys) -> Keys:
        """True where an entry is selected."""
        if self.drawn is None:
            chosen = keys <= self.key if self.lowest else keys >= self.key
        else:
            chosen = keys < self.key if self.lowest else keys > self.key
            tied = keys == self.key
            start, self.position = self.position, self.position + count_true(tied)
            drawn = self.drawn(np.arange(start, self.position))
            chosen[tied] = drawn if isinstance(keys, np.ndarray) else torch.from_numpy(drawn).to(keys.device)
        self.taken += count_true(chosen)
        return chosen


def _bits(score: Tensor, pool: ScoreKeys, cut: _Threshold) -> Tensor:
    """The packed mask of one tensor."""
    bits, at = torch.empty(-(-score.numel() // 8), dtype=torch.uint8, device=score.device), 0
    for keys in pool.keys_of(score, cut.key):
        part = pack_mask(torch.as_tensor(cut(keys)))
        bits[at : at + len(part)] = part
        at += len(part)
    return bits


@dataclass(frozen=True)
class _TieBreaker:
    """Entries that tie: ``total`` in all processes together, and of this one those from ``start`` to ``stop``."""

    start: int
    stop: int
    total: int
    processes: SelectionGroup

    @classmethod
    def of(cls, pool: ScoreKeys, found: radix_select.KthResult, processes: SelectionGroup) -> _TieBreaker:
        """Those at the key that was found."""
        own = sum(count_true(keys == found.key) for keys in pool.keys(found.key))
        each = processes.each([own])[:, 0].tolist()
        if sum(each) != found.equal:
            raise ComponentError(radix_select.CHANGED)
        start = sum(each[: processes.rank])
        return cls(start, start + own, found.equal, processes)

    def first(self, wanted: int) -> DrawnTies:
        """So many of the first."""
        return lambda positions: positions < wanted

    def drawn(self, wanted: int, seeds: Seeds) -> DrawnTies:
        """So many of those that come first in a random order: that of their positions, hashed one to one."""
        salt = int(seeds.numpy("ties").integers(2**64, dtype=np.uint64))

        def keys(_: int) -> Iterator[NDArray[np.int64]]:
            step = radix_select.WIDE_PIECE
            for start in range(self.start, self.stop, step):
                yield _hash_positions(np.arange(start, min(start + step, self.stop)), salt)

        low, high = (
            radix_select.least_integer(64) + min(max(int(bound * 2**64), 0), 2**64 - 1)
            for bound in radix_select.quantiles(wanted / self.total, self.total)
        )
        bracket = radix_select.Bracket(low, high, 8 * radix_select.sample_size(self.total))
        last = radix_select.kth_smallest(keys, wanted, bracket, 64, self.processes).key
        return lambda positions: _hash_positions(positions, salt) <= last


def _hash_positions(positions: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """No two are equal: splitmix64 (Steele, Lea and Flood, 2014) is one to one."""
    mixed: NDArray[np.uint64] = positions.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return mixed.view(np.int64)
