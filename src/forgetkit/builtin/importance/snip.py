"""SNIP: connection sensitivity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Probe


@dataclass(frozen=True)
class Snip:
    """How much the loss would change if a connection were cut: |θ · ∂L/∂θ|.

    L is the mean loss over the scoring samples, so the score is the magnitude of equation 2 of
    Ramkumar et al., 2023 (after Lee et al., 2019). Dividing by the sum over all parameters, as the
    paper does, changes no ranking and is left out.

    samples: scoring samples at most, out of those given (in a run: the training part of the finished mega-batch).

    Cost: one forward and one backward pass over the samples.
    """

    samples: Annotated[int, Field(ge=1)] = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """|θ g| with g the gradient of the mean loss over the samples."""
        return {name: (probe.targets[name] * grad).abs() for name, grad in probe.mean_grads(self.samples).items()}
