"""Exact selection at any size: a fraction of the lowest (or highest) scores of a whole model.

The bit patterns of floats sort as integers once negative ones are mirrored, so three histogram
passes of 11, 11 and 10 bits find the k-th smallest without a sort: linear time and a few
kilobytes of state, over any number of tensors. Scores in float64 take six passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forgetkit.contracts import Rounding, Ties, Which
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds

_INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}
_WIDTHS = {torch.float32: (11, 11, 10), torch.float64: (11, 11, 11, 11, 10, 10)}
_PIECE = 2**22


def count_of(fraction: float, total: int, rounding: Rounding = "down") -> int:
    """``floor`` or ``ceil`` of ``fraction * total``, exact for the decimal number as written (0.29 of 100 is 29)."""
    if not 0 <= fraction <= 1:
        raise OptionError(f"fraction={fraction} is not between 0 (reset nothing) and 1 (reset everything)")
    return (math.floor if rounding == "down" else math.ceil)(Fraction(str(fraction)) * total)


def select(
    scores: Mapping[str, Tensor],
    fraction: float,
    seeds: Seeds,
    *,
    which: Which = "lowest",
    ties: Ties = "random",
    rounding: Rounding = "down",
) -> tuple[dict[str, Tensor], float | None]:
    """Masks over a fraction of the entries, those with the lowest or highest scores, and the threshold.

    One threshold over the pooled entries of all tensors: the score of the last entry that is needed, None where
    none is. Of the entries that tie there, as many as are needed are drawn at random, each set equally likely, from
    the stream ``"ties"`` of ``seeds``; with ``ties="stable"`` they are the first; ``ties="drop"`` takes all of them,
    which can be far more than the fraction.
    """
    total, dtype, sign = 0, torch.float32, 1 if which == "lowest" else -1
    for score in scores.values():
        total, dtype = total + score.numel(), torch.promote_types(dtype, score.dtype)
    count = count_of(fraction, total, rounding)
    if count == 0:
        return {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}, None

    key, below = _kth_smallest(scores, count, dtype, sign)
    tied = {name: sum(int((k == key).sum()) for k in _keys(score, dtype, sign)) for name, score in scores.items()}
    chosen = _chosen(sum(tied.values()), count - below, ties, seeds)
    masks, start = {}, 0
    for name, score in scores.items():
        stop = start + tied[name]
        mine = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, stop)] - start
        masks[name] = _mask(score, key, torch.from_numpy(mine), dtype, sign)
        start = stop
    return masks, _value_of(sign * key, dtype)


def _chosen(tied: int, wanted: int, ties: Ties, seeds: Seeds) -> NDArray[np.int64]:
    """Which of the tied entries are selected, counted through all tensors: no tensor's share is rounded."""
    if ties == "random":
        return np.sort(seeds.numpy("ties").choice(tied, wanted, replace=False, shuffle=False))
    return np.arange(wanted if ties == "stable" else tied)


def _kth_smallest(scores: Mapping[str, Tensor], k: int, dtype: torch.dtype, sign: int) -> tuple[int, int]:
    """The k-th smallest key (k from 1), and how many are smaller."""
    widths = _WIDTHS[dtype]
    shift, below = sum(widths), 0
    base = -(2 ** (widths[0] - 1))  # where a pass begins to count, in steps of 2**shift; at first with the lowest key
    for width, following in zip(widths, (*widths[1:], 0), strict=True):
        shift -= width
        histogram = torch.zeros(2**width, dtype=torch.int64)
        for score in scores.values():
            for keys in _keys(score, dtype, sign):
                digits = (keys >> shift) - base  # may wrap around, never into the range: the least integer is no key
                inside = digits[(digits >= 0) & (digits < 2**width)]
                histogram += torch.bincount(inside, minlength=2**width).cpu()
        reached = below + torch.cumsum(histogram, 0)
        digit = int(torch.searchsorted(reached, k))
        if digit == len(histogram):
            raise ComponentError("the scores changed between two passes over them")
        below = int(reached[digit] - histogram[digit])
        base = (base + digit) << following
    return base, below


def _keys(score: Tensor, dtype: torch.dtype, sign: int) -> Iterator[Tensor]:
    """The entries as integers that sort like them (``sign`` -1: the other way), in pieces; minus zero becomes 0."""
    integer = _INTEGER[dtype]
    for piece in score.detach().flatten().split(_PIECE):
        bits = piece.to(dtype).view(integer)
        yield sign * torch.where(bits < 0, torch.iinfo(integer).min - bits, bits)


def _mask(score: Tensor, key: int, chosen_ties: Tensor, dtype: torch.dtype, sign: int) -> Tensor:
    """True below the key, and at those of the entries equal to it that were chosen."""
    keys = torch.cat(list(_keys(score, dtype, sign)))
    mask = keys < key
    tied = (keys == key).nonzero().flatten()
    mask[tied[chosen_ties.to(tied.device)]] = True
    return mask.view(score.shape)


def _value_of(key: int, dtype: torch.dtype) -> float:
    """The score that has this key: mirroring negative ones twice gives their bits back."""
    integer = _INTEGER[dtype]
    bits = key if key >= 0 else torch.iinfo(integer).min - key
    return float(torch.tensor(bits, dtype=integer).view(dtype))
