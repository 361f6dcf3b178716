"""The scores of a whole model as sortable integers, a piece at a time."""

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
_DEVICE_PIECE = 2**22  # entries that keep a device other than the CPU busy


@dataclass(frozen=True)
class ScoreKeys:
    """Bit patterns of scores. They sort as integers once those of negative scores are mirrored; minus zero becomes 0.

    ``total`` counts entries over all processes; ``dtype`` is float64 if any process holds float64, else float32.
    """

    scores: Mapping[str, Tensor]
    dtype: torch.dtype
    total: int

    @classmethod
    def of(cls, scores: Mapping[str, Tensor], processes: SelectionGroup, options: str = "") -> ScoreKeys:
        """Agree on total and dtype with the other processes, which must select by the same ``options``."""
        entries, doubles = 0, False
        for score in scores.values():
            entries, doubles = entries + score.numel(), doubles or score.dtype == torch.float64
        total, doubles = processes.begin(entries, doubles, options)
        return cls(scores, torch.float64 if doubles else torch.float32, total)

    @property
    def bits(self) -> int:
        """The bits of one key."""
        return torch.finfo(self.dtype).bits

    def keys(self, least: int) -> Iterator[Keys]:
        """Yield all keys of this process in pieces.

        Those below ``least`` may be replaced by others below it, which is cheaper if ``least`` is positive.
        """
        for score in self.scores.values():
            yield from self.keys_of(score, least)

    def keys_of(self, score: Tensor, least: int) -> Iterator[Keys]:
        """Yield the keys of one tensor in its logical order; each piece but the last holds a multiple of 8."""
        for piece in _pieces(score.detach()):
            keys = _native(piece.to(self.dtype).view(_INTEGER[self.dtype]))
            yield keys if least > 0 else self._mirrored(keys)

    def kth_smallest(self, k: int, processes: SelectionGroup) -> KthResult:
        """Find the k-th smallest key, k from 1."""
        bracket = radix_select.bracket_of(self._sample(), k / self.total, self.total, self.bits, processes)
        return radix_select.kth_smallest(self.keys, k, bracket, self.bits, processes)

    def value_of(self, key: int) -> float:
        """Return the score of a key: mirroring a second time gives its bits back."""
        keys = torch.tensor([key], dtype=_INTEGER[self.dtype])
        return float(self._mirrored(keys).view(self.dtype))

    def _mirrored(self, keys: Keys) -> Keys:
        sign = keys >> (self.bits - 1)
        return (keys ^ (sign & -radix_select.least_integer(self.bits) - 1)) - sign

    def _sample(self) -> NDArray[Any]:
        """Draw keys with equal chances. The result of a selection does not depend on which are drawn."""
        rng, fraction = np.random.default_rng(0), radix_select.sample_size(self.total) / self.total
        sample = [torch.empty(0, dtype=self.dtype)]
        for score in self.scores.values():
            size = int(score.numel() * fraction + rng.random())
            if size:
                at = torch.from_numpy(np.sort(rng.integers(score.numel(), size=size))).to(score.device)
                values = score.detach()
                if values.element_size() == 1:  # floats of 8 bits have no take(), their bits do
                    drawn = values.view(torch.uint8).take(at).view(values.dtype)
                else:
                    drawn = values.take(at)
                sample.append(drawn.to(device="cpu", dtype=self.dtype))
        keys: NDArray[Any] = self._mirrored(torch.cat(sample).view(_INTEGER[self.dtype]).numpy())
        return keys


def _native(bits: Tensor) -> Keys:
    """On the CPU numpy is faster, on pieces that stay in its cache."""
    return bits.numpy() if bits.device.type == "cpu" else bits


def _pieces(score: Tensor) -> Iterator[Tensor]:
    """Yield flat parts in logical order. A tensor in another memory format is copied some rows at a time.

    Pieces have a multiple of 8 rows, so that each but the last ends on a whole byte of the mask; a matrix of fewer
    rows is copied whole.
    """
    size = radix_select.PIECE if score.device.type == "cpu" else _DEVICE_PIECE
    if score.is_contiguous():
        yield from score.flatten().split(size)
        return
    for rows in score.split(max(8, size // max(1, score[0].numel()) // 8 * 8)):
        yield from rows.flatten().split(size)
