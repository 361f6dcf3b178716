"""Gradient magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Probe


@dataclass(frozen=True)
class Gradient:
    """How strongly the loss still pulls at an entry: |∂L/∂θ|.

    L is the mean loss over the scoring samples. Keeps what still wants to move and resets what has settled.

    samples: scoring samples at most.

    Cost: one forward and one backward pass over the samples.
    """

    samples: Annotated[int, Field(ge=1)] = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """|g| with g the gradient of the mean loss over the samples."""
        return {name: grad.abs() for name, grad in probe.mean_grads(self.samples).items()}
