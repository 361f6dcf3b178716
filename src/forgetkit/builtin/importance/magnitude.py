"""Weight magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from forgetkit.contracts import Probe
from forgetkit.unlearning import LazyScores


@dataclass(frozen=True)
class Magnitude:
    """The absolute value of an entry; needs no data.

    Scores compare within a layer only: normalisation makes the scale of a layer's weights arbitrary, so
    one threshold over all layers favours layers with large weights.

    Formula: s = |θ|.

    Cost: none.

    Source: table 8 of Ramkumar et al., 2023.
    """

    needs_data: ClassVar[bool] = False

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return |θ|, computed one parameter at a time."""
        return LazyScores(probe.targets, torch.abs)
