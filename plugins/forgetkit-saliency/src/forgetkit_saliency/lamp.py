"""Layer-adaptive magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from forgetkit.contracts import Probe


@dataclass(frozen=True)
class Lamp:
    """The square of an entry, relative to the entries of its tensor that are not smaller; needs no data.

    Comparable between layers: the largest entry of each tensor scores 1, so one threshold resets no whole tensor.

    Formula: s = θ² / Σ θ'², the sum over all entries θ' of the same tensor with θ'² ≥ θ²; 0 where θ is.

    Cost: sorting each tensor.

    Source: Lee et al., 2021.
    """

    needs_data: ClassVar[bool] = False

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Score all tensors at once: selection reads the scores several times, and sorting is slow."""
        return {name: _shares(target) for name, target in probe.targets.items()}


def _shares(tensor: Tensor) -> Tensor:
    ascending, order = tensor.abs().flatten().sort()
    square = ascending.double().square()  # in float64, which a sum of many small squares needs
    from_here = square.flip(0).cumsum(0).flip(0)
    first = torch.searchsorted(ascending, ascending)  # of those that tie
    shares = torch.where(square > 0, square / from_here[first], 0.0).to(tensor)
    return torch.empty_like(shares).scatter_(0, order, shares).view(tensor.shape)
