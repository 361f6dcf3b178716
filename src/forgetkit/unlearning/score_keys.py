"""The scores of a whole model as integers, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forgetkit.unlearning import radix_select
from forgetkit.unlearning.radix_select import Keys, KthResult
from forgetkit.unlearning.selection_group import SelectionGroup

_INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}
_DEVICE_PIECE = 2**22  # entries that keep another device than the CPU busy


@dataclass(frozen=True)
class ScoreKeys:
    """Scores whose bit patterns sort as integers, once those of negative ones are mirrored; minus zero becomes 0.

    ``total`` entries over all processes; ``dtype`` is float32, or float64 where one of them holds float64.
    """

    scores: Mapping[str, Tensor]
    dtype: torch.dtype
    total: int

    @classmethod
    def of(cls, scores: Mapping[str, Tensor], processes: SelectionGroup, options: str = "") -> ScoreKeys:
        """With those of the other processes, which select by the same ``options``."""
        entries, doubles = 0, False
        for score in scores.values():
            entries, doubles = entries + score.numel(), doubles or score.dtype == torch.float64
        total, doubles = processes.begin(entries, doubles, options)
        return cls(scores, torch.float64 if doubles else torch.float32, total)

    @property
    def bits(self) -> int:
        """Of each key."""
        return torch.finfo(self.dtype).bits

    def keys(self, least: int) -> Iterator[Keys]:
        """All of this process, in pieces. Those below ``least`` may be any below it: cheaper where it is positive."""
        for score in self.scores.values():
            yield from self.keys_of(score, least)

    def keys_of(self, score: Tensor, least: int) -> Iterator[Keys]:
        """Of one tensor, in its logical order; each piece but the last a multiple of 8."""
        for piece in _pieces(score.detach()):
            bits = piece.to(self.dtype).view(_INTEGER[self.dtype])
            keys = _native(bits)
            yield keys if least > 0 else self._mirrored(keys)

    def kth_smallest(self, k: int, processes: SelectionGroup) -> KthResult:
        """The k-th smallest key, k from 1."""
        bracket = radix_select.bracket_of(self._sample(), k / self.total, self.total, self.bits, processes)
        return radix_select.kth_smallest(self.keys, k, bracket, self.bits, processes)

    def value_of(self, key: int) -> float:
        """The score that has this key: mirroring gives its bits back."""
        keys = torch.tensor([key], dtype=_INTEGER[self.dtype])
        return float(self._mirrored(keys).view(self.dtype))

    def _mirrored(self, keys: Keys) -> Keys:
        sign = keys >> (self.bits - 1)
        return (keys ^ (sign & -radix_select.least_integer(self.bits) - 1)) - sign

    def _sample(self) -> NDArray[Any]:
        """Keys of entries drawn with equal chances. Which ones they are has no part in any result."""
        rng, share = np.random.default_rng(0), radix_select.sample_size(self.total) / self.total
        sample = []
        for score in self.scores.values():
            size = int(score.numel() * share + rng.random())
            if size:
                at = torch.from_numpy(np.sort(rng.integers(score.numel(), size=size))).to(score.device)
                values = score.detach()
                if score.element_size() == 1:  # floats of 8 bits cannot take(), their bits can
                    taken = values.view(torch.uint8).take(at).view(values.dtype)
                else:
                    taken = values.take(at)
                sample.append(taken.to(device="cpu", dtype=self.dtype))
        values = torch.cat(sample) if sample else torch.empty(0, dtype=self.dtype)
        keys: NDArray[Any] = self._mirrored(values.view(_INTEGER[self.dtype]).numpy())
        return keys


def _native(bits: Tensor) -> Keys:
    """On the CPU numpy is faster, on pieces that stay in its cache."""
    return bits.numpy() if bits.device.type == "cpu" else bits


def _pieces(score: Tensor) -> Iterator[Tensor]:
    """Flat parts in logical order. Of a tensor in another memory format some rows at a time are copied: eight at least.

    A matrix of fewer is copied whole; only by eights does each piece but the last end on a whole byte of the mask.
    """
    size = radix_select.PIECE if score.device.type == "cpu" else _DEVICE_PIECE
    if score.is_contiguous():
        yield from score.flatten().split(size)
        return
    rows = max(8, size // max(1, score[0].numel()) // 8 * 8)
    for some in score.split(rows):
        yield from some.flatten().split(size)
