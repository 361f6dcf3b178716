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
    """The size of an entry among those of its tensor that are not smaller; needs no data.

    Fair between layers: in each tensor the largest entry scores 1, so that one threshold never empties any.

    Formula: s = θ² / Σ θ'², the sum over all entries θ' of the same tensor with θ'² ≥ θ²; 0 where θ is.

    Cost: sorting each tensor.

    Source: Lee et al., 2021.
    """

    needs_data: ClassVar[bool] = False

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """All at once: whoever selects looks at the scores several times, and sorting is not cheap."""
        return {name: _shares(target) for name, target in probe.targets.items()}


def _shares(tensor: Tensor) -> Tensor:
    square = tensor.double().square()  # in float64, which a sum of many small squares needs
    ascending = square.flatten().sort().values
    from_here = ascending.flip(0).cumsum(0).flip(0)
    first = torch.searchsorted(ascending, square.flatten()).view(square.shape)  # the first of those that tie
    return torch.where(square > 0, square / from_here[first], 0.0).to(tensor)
