"""The k-th smallest of many integers, by counting: no sort, no copy, over any number of processes.

A sample gives a bracket that probably holds the k-th smallest. One pass counts the keys below it and collects the few
in it; histograms of 8-bit digits find the result among those. If the bracket is wrong, the histograms go over all
keys: the result is exact in any case.
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
"""Integers: a numpy array on the CPU, a tensor on other devices. The code uses only operators that both have."""

CHANGED = "the scores changed between two passes over them"
PIECE = 2**16
WIDE_PIECE = PIECE // 4
"""Entries per piece where each takes 64 bits, several times over."""
_DIGIT = 8
_DEVIATIONS = 4  # standard deviations of a sample's rank: one bracket in 15 000 is wrong, and only costs time


@dataclass(frozen=True)
class KthResult:
    """A key, and how many keys are below and equal to it, over all processes."""

    key: int
    below: int
    equal: int


@dataclass(frozen=True)
class Bracket:
    """The expected range of the k-th smallest; at most ``limit`` keys between its bounds are collected."""

    low: int
    high: int
    limit: int


def least_integer(bits: int) -> int:
    """Return the least signed integer of ``bits`` bits."""
    return -1 << (bits - 1)


def sample_size(total: int) -> int:
    """Return the size of a sample that leaves about as many candidates as it has entries."""
    return math.ceil(math.pow(total, 2 / 3))


def quantiles(fraction: float, size: int) -> tuple[float, float]:
    """Return the quantiles between which the ``fraction`` quantile of ``size`` random entries nearly always lies."""
    spread = (_DEVIATIONS * math.sqrt(size * fraction * (1 - fraction)) + 1) / max(size, 1)
    return fraction - spread, fraction + spread


def bracket_of(sample: NDArray[Any], fraction: float, total: int, bits: int, processes: SelectionGroup) -> Bracket:
    """Bracket the ``fraction`` quantile of ``total`` keys by those of a random sample."""
    size = int(processes.total([len(sample)])[0])
    low, high = (round(bound * size) for bound in quantiles(fraction, size))

    def sample_kth(k: int) -> int:
        return kth_by_digits(lambda: split_keys(sample), k, bits, processes).key

    return Bracket(
        sample_kth(low) if low >= 1 else least_integer(bits),
        sample_kth(high) if high < size else -least_integer(bits) - 1,
        8 * sample_size(total),
    )


def kth_smallest(
    keys: Callable[[int], Iterable[Keys]], k: int, bracket: Bracket, bits: int, processes: SelectionGroup
) -> KthResult:
    """Find the k-th smallest key, k from 1.

    ``keys(least)`` yields all keys in pieces; it may replace a key below ``least`` by any other below it.
    """
    candidates, counts = _candidates(keys(bracket.low), bracket)
    below, at_low, between, at_high, too_many = processes.total(counts).tolist()
    if below < k <= below + at_low:
        return KthResult(bracket.low, below, at_low)
    below += at_low
    if below < k <= below + between and not too_many:
        found = kth_by_digits(lambda: split_keys(candidates), k - below, bits, processes)
        return KthResult(found.key, below + found.below, found.equal)
    below += between
    if below < k <= below + at_high:
        return KthResult(bracket.high, below, at_high)
    return kth_by_digits(lambda: keys(least_integer(bits)), k, bits, processes)


def _candidates(keys: Iterable[Keys], bracket: Bracket) -> tuple[NDArray[Any], list[int]]:
    """Return the keys strictly inside the bracket, and counts: below, at low, inside, at high, whether too many."""
    inside_pieces: list[NDArray[Any]] = []
    below = at_low = between = at_high = 0
    for piece in keys:
        below += count_true(piece < bracket.low)
        near = piece[(piece >= bracket.low) & (piece <= bracket.high)]
        inside = near[(near > bracket.low) & (near < bracket.high)]
        low = count_true(near == bracket.low)
        at_low, between, at_high = at_low + low, between + len(inside), at_high + len(near) - low - len(inside)
        if between <= bracket.limit:
            inside_pieces.append(inside if isinstance(inside, np.ndarray) else inside.cpu().numpy())
    candidates = np.concatenate(inside_pieces) if inside_pieces else np.zeros(0, np.int64)
    return candidates, [below, at_low, between, at_high, between > bracket.limit]


def kth_by_digits(keys: Callable[[], Iterable[Keys]], k: int, bits: int, processes: SelectionGroup) -> KthResult:
    """Find the k-th smallest, one 8-bit digit per pass: a histogram of the first digit gives the first, and so on."""
    base, below, digit_count = least_integer(bits), 0, 2**_DIGIT
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        histogram = np.zeros(digit_count, np.int64)
        for piece in keys():
            digits = (piece >> shift) - (base >> shift)  # may wrap around, but never into the range
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
    """Split into pieces, so that counting takes little memory."""
    return (keys[start : start + WIDE_PIECE] for start in range(0, len(keys), WIDE_PIECE))


def count_true(mask: Keys) -> int:
    """Count the true entries."""
    return int(np.count_nonzero(mask)) if isinstance(mask, np.ndarray) else int(mask.sum())
