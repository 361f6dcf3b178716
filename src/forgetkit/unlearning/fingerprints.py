"""Fingerprints of tensors: numbers made of all their bits, in place of a copy to compare with."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forgetkit.unlearning.tensor_checks import PIECE, ROWS

_INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_STEP = 0x5851F42D4C957F2D


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape have the same bits; signs of zero and NaN count."""
    return torch.equal(_bits(one), _bits(other))


def fingerprint(tensor: Tensor) -> int:
    """Return the fingerprint of one tensor; see :func:`fingerprints`."""
    return fingerprints([tensor])[0]


def fingerprints(tensors: Iterable[Tensor]) -> list[int]:
    """Return for each tensor the wrapping sum of its 32-bit words, each times an odd 64-bit number and mixed.

    The numbers are random, but fixed. Multiplying by an odd number and mixing are one to one, so a change within one
    word always shows. Several changes cancel only by coincidence; two flipped signs never do. This is no protection
    against deliberate collisions.
    """
    factors: dict[torch.device, Tensor] = {}
    sums = []
    for tensor in tensors:
        words = _words(tensor)
        needed = min(len(words), PIECE)
        if words.device not in factors or len(factors[words.device]) < needed:
            factors[words.device] = _odd_numbers(min(2 * needed, PIECE)).to(words.device)
        sums.append(_sums(words, factors[words.device]))
    return [functools.reduce(lambda total, piece: (total * _STEP + piece) % 2**64, each.tolist(), 0) for each in sums]


def _sums(words: Tensor, factors: Tensor) -> Any:
    """Sum each whole piece of ``words`` and the rest, wrapping in 64 bits."""
    if words.device.type != "cpu":
        return _sums_in_rows(words, factors)
    array, odd = words.numpy(), factors.numpy()  # numpy is faster on pieces that stay in its cache
    pieces = (array[start : start + PIECE] for start in range(0, len(array) + 1, PIECE))
    return np.array([_mix(piece, odd[: len(piece)]).sum() for piece in pieces])


def _sums_in_rows(words: Tensor, factors: Tensor) -> Tensor:
    """Sum on any device: many pieces at once keep it busy, and yet make no second copy of a large tensor."""
    end = len(words) // PIECE * PIECE
    rows, rest = words[:end].view(-1, PIECE).split(ROWS) if end else (), words[end:]
    return torch.cat(
        [*(_mix(some, factors).sum(1) for some in rows), _mix(rest, factors[: len(rest)]).sum(0, keepdim=True)]
    )


def _mix(words: Any, factors: Any) -> Any:
    """Mix arrays or tensors. A product alone would map a flipped sign to the same change whatever the word is."""
    products = words * factors
    products ^= (products >> 32) & (2**32 - 1)
    return products


def _odd_numbers(count: int) -> Tensor:
    """Return the first ``count`` of a sequence that is always the same."""
    rng = torch.Generator().manual_seed(0)
    return torch.empty(count, dtype=torch.int64).random_(-(2**63), None, generator=rng) | 1


def _words(tensor: Tensor) -> Tensor:
    """View a tensor's bits as 32-bit integers, or as shorter ones if its size or offset demands it."""
    bits = _bits(tensor).flatten()
    size = bits.element_size()
    width = next(w for w in (4, 2, 1) if bits.numel() * size % w == 0 and bits.storage_offset() * size % w == 0)
    return bits.view(_INTEGER_OF_SIZE[width])


def _bits(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    return real.contiguous().view(_INTEGER_OF_SIZE[real.element_size()])
