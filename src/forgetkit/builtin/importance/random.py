"""Random scores, as a control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from forgetkit.contracts import Probe


@dataclass(frozen=True)
class Random:
    """A uniform number per entry: the control that every criterion has to beat.

    Formula: s ~ U(0, 1), independently.

    Cost: none.

    Source: named in appendix A.2 of Ramkumar et al., 2023, whose table 8 has no row for it.
    """

    needs_data: ClassVar[bool] = False
    allows_ties: ClassVar[bool] = True
    expected_failures: ClassVar[Mapping[str, str]] = MappingProxyType({"higher-is-keep": "its scores mean nothing"})

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Draw U(0, 1) on the CPU, so that the device changes nothing."""
        return {
            name: torch.rand(target.shape, generator=probe.rng_for(name)).to(target.device)
            for name, target in probe.targets.items()
        }
