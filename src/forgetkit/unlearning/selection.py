"""Selection: masks over exactly a fraction of the lowest (or highest) scores of a whole model.

:func:`select` finds the k-th smallest score (``score_keys``, ``radix_select``) in one pass and writes the masks in
another: linear time, and one bit per score plus a few candidates of memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forgetkit.contracts import Rounding, Ties, Which
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds
from forgetkit.unlearning import radix_select
from forgetkit.unlearning.masks import Masks, PackedMask, pack_mask
from forgetkit.unlearning.radix_select import Keys, KthResult, count_true
from forgetkit.unlearning.score_keys import ScoreKeys
from forgetkit.unlearning.selection_group import SelectionGroup
from forgetkit.unlearning.shards import Shards

ChooseTied = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Maps positions among all tied entries to whether the entry is selected."""


def count_of(fraction: float, total: int, rounding: Rounding = "down") -> int:
    """Return ``floor`` or ``ceil`` of ``fraction * total``, exact for the decimal as written (0.29 of 100 is 29)."""
    if not 0 <= fraction <= 1:
        raise OptionError(f"fraction={fraction} is not between 0 (reset nothing) and 1 (reset everything)")
    return (math.floor if rounding == "down" else math.ceil)(Fraction(str(fraction)) * total)


@dataclass(frozen=True, eq=False)
class Selection:
    """Masks, and the score at their threshold: None if nothing is selected.

    Of ``entries`` scores ``tied`` equal the threshold; both counts are over all processes.
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
    shards: Shards | None = None,
) -> Selection:
    """Select a fraction of all entries, by one threshold over the pooled scores: 1 - M = 1[s <= k-th smallest].

    Args:
        scores: Floats by name, any shapes. They must not change between the two passes.
        fraction: Of all entries, 0 to 1.
        seeds: The stream ``"ties"`` draws between tied entries.
        which: Select the lowest or the highest scores.
        ties: Of the entries at the threshold select as many as are missing, at random (each set equally likely) or
            the first (``"stable"``); or select all (``"drop"``), which can be far more than the fraction.
        rounding: Round the number of entries down or up.
        processes: Select over the scores of several processes, ordered by rank; the masks are those of this process.
        shards: The scores lie in parts in these processes: the masks are the parts of those that one would select.

    Raises:
        OptionError: If ``fraction`` is not between 0 and 1.
        ComponentError: If scores change between two passes, or if another process fails.
    """
    processes = processes or SelectionGroup()
    count_of(fraction, 0)  # refuse a wrong fraction before any score is read
    options = f"fraction={float(fraction)}, which={which}, ties={ties}, rounding={rounding}"
    parts = scores if shards is None else shards.parts_of(scores)
    keys = ScoreKeys.of(parts if shards is None else shards.counted(parts), processes, options)
    count, lowest = count_of(fraction, keys.total, rounding), which == "lowest"
    threshold = _Threshold(radix_select.least_integer(keys.bits), lowest=True)  # selects nothing: the key of no score
    value, tied = None, 0
    if count:
        kth = keys.kth_smallest(count if lowest else keys.total - count + 1, processes)
        threshold, value, tied = _Threshold(kth.key, lowest), keys.value_of(kth.key), kth.equal
        missing = count - (kth.below if lowest else keys.total - kth.below - tied)
        if ties == "drop":
            count += tied - missing
        elif missing < tied:
            by_rank = [kth.equal] if shards is not None else _count_tied(keys, kth, processes)
            members = processes if shards is None else SelectionGroup()
            chosen = _choose_tied(by_rank, kth, missing, ties, seeds, members)
            threshold.choose_tied, threshold.position = chosen
    packed: dict[str, PackedMask]
    if shards is None:
        packed = {name: (_packed_mask(score, keys, threshold), score.shape) for name, score in scores.items()}
        selected = threshold.selected
    else:
        inside, is_tied = partial(_compare, keys, threshold.inside), partial(_compare, keys, threshold.is_tied)
        packed, selected = shards.masks(parts, inside, is_tied, threshold.choose_tied)
    if int(processes.total([selected])[0]) != count:
        raise ComponentError(radix_select.CHANGED)
    processes.end()
    return Selection(Masks(packed), value, tied, keys.total)


def _compare(keys: ScoreKeys, test: Callable[[Keys], Keys], score: Tensor) -> Tensor:
    """Return a bool tensor of the score's shape."""
    empty = torch.empty(0, dtype=torch.bool, device=score.device)
    found = [
        torch.as_tensor(test(some)).flatten() for some in keys.keys_of(score, radix_select.least_integer(keys.bits))
    ]
    return torch.cat([empty, *found]).view(score.shape)


@dataclass
class _Threshold:
    """Selects the keys on one side of ``key``, and of those equal to it all or the ones that ``choose_tied`` takes."""

    key: int
    lowest: bool
    choose_tied: ChooseTied | None = None
    position: int = 0
    """Of the next tied entry, among all that tie."""
    selected: int = 0

    def inside(self, keys: Keys) -> Keys:
        """Whether keys are selected, tied ones only if all of them are."""
        if self.choose_tied is None:
            return keys <= self.key if self.lowest else keys >= self.key
        return keys < self.key if self.lowest else keys > self.key

    def is_tied(self, keys: Keys) -> Keys:
        """Whether keys are at the threshold."""
        return keys == self.key

    def __call__(self, keys: Keys) -> Keys:
        mask = self.inside(keys)
        if self.choose_tied is not None:
            tied = self.is_tied(keys)
            start, self.position = self.position, self.position + count_true(tied)
            chosen = self.choose_tied(np.arange(start, self.position))
            mask[tied] = chosen if isinstance(keys, np.ndarray) else torch.from_numpy(chosen).to(keys.device)
        self.selected += count_true(mask)
        return mask


def _packed_mask(score: Tensor, keys: ScoreKeys, threshold: _Threshold) -> Tensor:
    return torch.cat([pack_mask(torch.as_tensor(threshold(some))) for some in keys.keys_of(score, threshold.key)])


def _count_tied(keys: ScoreKeys, kth: KthResult, processes: SelectionGroup) -> list[int]:
    """Return how many entries tie at ``kth`` in each process."""
    own = sum(count_true(some == kth.key) for some in keys.keys(kth.key))
    by_rank: list[int] = processes.each([own])[:, 0].tolist()
    if sum(by_rank) != kth.equal:
        raise ComponentError(radix_select.CHANGED)
    return by_rank


def _choose_tied(
    by_rank: list[int], kth: KthResult, count: int, ties: Ties, seeds: Seeds, processes: SelectionGroup
) -> tuple[ChooseTied, int]:
    """Choose ``count`` of the entries that tie at ``kth``; also return the position of this process's first one.

    A random draw takes the entries whose positions have the lowest hashes. Selecting those needs no list of them.
    """
    own, start = by_rank[processes.rank], sum(by_rank[: processes.rank])
    if ties == "stable":
        return lambda positions: positions < count, start
    salt = int(seeds.numpy("ties").integers(2**64, dtype=np.uint64))

    def hashes(_: int) -> Iterator[NDArray[np.int64]]:
        step = radix_select.WIDE_PIECE
        for first in range(start, start + own, step):
            yield _hash_positions(np.arange(first, min(first + step, start + own)), salt)

    low, high = (
        radix_select.least_integer(64) + min(max(int(bound * 2**64), 0), 2**64 - 1)
        for bound in radix_select.quantiles(count / kth.equal, kth.equal)
    )
    bracket = radix_select.Bracket(low, high, 8 * radix_select.sample_size(kth.equal))
    last = radix_select.kth_smallest(hashes, count, bracket, 64, processes).key
    return lambda positions: _hash_positions(positions, salt) <= last, start


def _hash_positions(positions: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """Hash one to one, so that no two are equal: splitmix64 (Steele, Lea and Flood, 2014)."""
    mixed: NDArray[np.uint64] = positions.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return mixed.view(np.int64)
