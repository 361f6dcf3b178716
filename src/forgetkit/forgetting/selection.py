"""Exact selection at any size: the floor(fraction x N) lowest scores of a whole model.

The bit patterns of floats sort as integers once negative ones are mirrored, so three histogram
passes of 11, 11 and 10 bits find the k-th smallest without a sort: linear time and a few
kilobytes of state, over any number of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds

_PASSES = ((21, 11), (10, 11), (0, 10))
_PIECE = 2**22


def count_of(fraction: float, total: int) -> int:
    """``floor(fraction * total)``, exact for the decimal number as it is written (0.29 of 100 is 29)."""
    if not 0 <= fraction <= 1:
        raise OptionError(f"fraction={fraction} is not between 0 (reset nothing) and 1 (reset everything)")
    return math.floor(Fraction(str(fraction)) * total)


def lowest(scores: Mapping[str, Tensor], fraction: float, seeds: Seeds) -> tuple[dict[str, Tensor], float | None]:
    """Masks over exactly ``floor(fraction * N)`` entries with the lowest scores, and the threshold.

    One threshold over the pooled entries of all tensors. Entries that tie at the threshold are
    drawn at random, each set of the needed size equally likely, from the stream ``"ties"`` of
    ``seeds``. The threshold is the largest score selected, None where nothing is.
    """
    total = sum(score.numel() for score in scores.values())
    count = count_of(fraction, total)
    if count == 0:
        return {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}, None

    key, below = _kth_smallest(scores, count)
    ties = {name: sum(int((k == key).sum()) for k in _keys(score)) for name, score in scores.items()}
    # A global draw over all ties, then cut per tensor: no tensor's share is rounded.
    drawn = seeds.numpy("ties").choice(sum(ties.values()), count - below, replace=False, shuffle=False)
    drawn.sort()
    masks, start = {}, 0
    for name, score in scores.items():
        stop = start + ties[name]
        mine = drawn[np.searchsorted(drawn, start) : np.searchsorted(drawn, stop)] - start
        masks[name] = _mask(score, key, torch.from_numpy(mine))
        start = stop
    return masks, _value_of(key)


def _kth_smallest(scores: Mapping[str, Tensor], k: int) -> tuple[int, int]:
    """The key of the k-th smallest score (k from 1), and how many are smaller."""
    prefix, below = 0, 0
    for shift, width in _PASSES:
        histogram = torch.zeros(2**width, dtype=torch.int64)
        for score in scores.values():
            for keys in _keys(score):
                inside = keys[(keys >> (shift + width)) == prefix]
                digits = (inside >> shift) & (2**width - 1)
                histogram += torch.bincount(digits, minlength=2**width).cpu()
        reached = below + torch.cumsum(histogram, 0)
        digit = int(torch.searchsorted(reached, k))
        if digit == len(histogram):
            raise ComponentError("the scores changed between two passes over them")
        below = int(reached[digit] - histogram[digit])
        prefix = (prefix << width) | digit
    return prefix, below


def _keys(score: Tensor) -> Iterator[Tensor]:
    """The entries as integers in 0 .. 2**32 - 1 that sort like them, piece by piece."""
    for piece in score.detach().flatten().split(_PIECE):
        bits = (piece.float() + 0.0).view(torch.int32).to(torch.int64)  # + 0.0: minus zero ties with zero
        yield torch.where(bits < 0, -1 - bits, bits + 2**31)


def _mask(score: Tensor, key: int, chosen_ties: Tensor) -> Tensor:
    """True below the key, and at those of the entries equal to it that were drawn."""
    mask = torch.cat([keys < key for keys in _keys(score)])
    tied = torch.cat([keys == key for keys in _keys(score)]).nonzero().flatten()
    mask[tied[chosen_ties.to(tied.device)]] = True
    return mask.view(score.shape)


def _value_of(key: int) -> float:
    bits = key - 2**31 if key >= 2**31 else -1 - key
    return float(torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32))
