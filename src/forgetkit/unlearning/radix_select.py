"""The k-th smallest of many integers by counting them: no sort, no copy, over any number of processes.

A bracket in which it probably lies, from a sample, leaves few candidates after one pass; these are counted a digit
at a time. Where the bracket was wrong all entries are counted so: what is found is exact in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgetkit.errors import ComponentError
from forgetkit.unlearning.selection_group import SelectionGroup

Keys = Any
"""Integers: an array of numpy on the CPU, a tensor elsewhere; both know the same operators."""

CHANGED = "the scores changed between two passes over them"
PIECE = 2**16
WIDE_PIECE = PIECE // 4
"""Of entries that take 64 bits each, several times over."""
_DIGIT = 8
_DEVIATIONS = 4  # of a sample's rank: one bracket in 15 000 is wrong, and only costs time


@dataclass(frozen=True)
class KthResult:
    """A key, how many are smaller and how many equal, over all processes."""

    key: int
    below: int
    equal: int


@dataclass(frozen=True)
class Bracket:
    """The k-th smallest is expected from ``low`` to ``high``, and at most ``limit`` entries in between."""

    low: int
    high: int
    limit: int


def least_integer(bits: int) -> int:
    """The least integer of so many bits."""
    return -1 << (bits - 1)


def sample_size(total: int) -> int:
    """The size of a sample that leaves about as many candidates as it has itself."""
    return math.ceil(math.pow(total, 2 / 3))


def quantiles(share: float, size: int) -> tuple[float, float]:
    """Between which shares of all entries the ``share`` of ``size`` random ones lies, nearly always."""
    spread = (_DEVIATIONS * math.sqrt(size * share * (1 - share)) + 1) / max(size, 1)
    return share - spread, share + spread


def bracket_of(sample: NDArray[Any], share: float, total: int, bits: int, processes: SelectionGroup) -> Bracket:
    """Where the entry that so large a share of ``total`` entries reaches lies, as far as a sample tells."""
    size = int(processes.total([len(sample)])[0])
    low, high = (round(bound * size) for bound in quantiles(share, size))
    return Bracket(
        kth_by_digits(lambda: split_keys(sample), low, bits, processes).key if low >= 1 else least_integer(bits),
        kth_by_digits(lambda: split_keys(sample), high, bits, processes).key
        if high < size
        else -least_integer(bits) - 1,
        8 * sample_size(total),
    )


def kth_smallest(
    keys: Callable[[int], Iterable[Keys]], k: int, bracket: Bracket, bits: int, processes: SelectionGroup
) -> KthResult:
    """The k-th smallest (k from 1). ``keys(least)`` gives all keys, where those below ``least`` may be any below it."""
    near, counts = _candidates(keys(bracket.low), bracket)
    below, at_low, between, at_high, too_many = processes.total(counts).tolist()
    if below < k <= below + at_low:
        return KthResult(bracket.low, below, at_low)
    below += at_low
    if below < k <= below + between and not too_many:
        found = kth_by_digits(lambda: split_keys(near), k - below, bits, processes)
        return KthResult(found.key, below + found.below, found.equal)
    below += between
    if below < k <= below + at_high:
        return KthResult(bracket.high, below, at_high)
    return kth_by_digits(lambda: keys(least_integer(bits)), k, bits, processes)


def _candidates(keys: Iterable[Keys], bracket: Bracket) -> tuple[NDArray[Any], list[int]]:
    """Those between the bounds; how many are below, at the lower bound, between, at the upper one; if too many."""
    kept: list[NDArray[Any]] = []
    below = at_low = between = at_high = 0
    for piece in keys:
        below += count_true(piece < bracket.low)
        near = piece[(piece >= bracket.low) & (piece <= bracket.high)]
        inside = near[(near > bracket.low) & (near < bracket.high)]
        low = count_true(near == bracket.low)
        at_low, between, at_high = at_low + low, between + len(inside), at_high + len(near) - low - len(inside)
        if between <= bracket.limit:
            kept.append(inside if isinstance(inside, np.ndarray) else inside.cpu().numpy())
    candidates = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return candidates, [below, at_low, between, at_high, between > bracket.limit]


def kth_by_digits(keys: Callable[[], Iterable[Keys]], k: int, bits: int, processes: SelectionGroup) -> KthResult:
    """The k-th smallest: how often each first digit comes up tells its first digit, and so on."""
    base, below, digit_count = least_integer(bits), 0, 2**_DIGIT
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        histogram = np.zeros(digit_count, np.int64)
        for piece in keys():
            # May wrap around, never into the range.
            digits = (piece >> shift) - (base >> shift)
            inside = digits[(digits >= 0) & (digits < digit_count)]
            histogram += np.bincount(inside if isinstance(inside, np.ndarray) else inside.cpu(), minlength=digit_count)
        reached = below + np.cumsum(processes.total(histogram), dtype=np.int64)
        digit = int(np.searchsorted(reached, k))
        if digit == digit_count:
            raise ComponentError(CHANGED)
        if digit:
            below = int(reached[digit - 1])
        base += digit << shift
    return KthResult(base, below, int(reached[digit]) - below)


def split_keys(keys: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """One after the other, so that counting them takes little memory."""
    return (keys[start : start + WIDE_PIECE] for start in range(0, len(keys), WIDE_PIECE))


def count_true(found: Keys) -> int:
    """How many are true."""
    return int(np.count_nonzero(found)) if isinstance(found, np.ndarray) else int(found.sum())
