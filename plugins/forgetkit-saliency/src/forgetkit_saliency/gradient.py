"""Gradient magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from forgetkit.contracts import Probe, SampleLimit


@dataclass(frozen=True)
class Gradient:
    """The gradient's magnitude: keeps entries that still change, and resets those at rest.

    Formula: s = |∂L/∂θ|, with L the mean loss over the scoring samples.

    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    Cost: one forward and one backward pass over the samples.

    Source: a common control of SNIP.
    """

    samples: SampleLimit = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return |g| of the mean loss over the samples."""
        return {name: grad.abs() for name, grad in probe.mean_grads(self.samples).items()}
