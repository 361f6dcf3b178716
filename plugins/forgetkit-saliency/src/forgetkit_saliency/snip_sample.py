"""SNIP per sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from forgetkit.contracts import Probe, SampleLimit
from forgetkit_saliency.averages import absolutes, mean_of


@dataclass(frozen=True)
class SnipSample:
    """How much the loss of single samples would change if a connection were cut.

    If a network has learned its samples, the mean gradient is near zero although those of single samples are not; here
    they cannot cancel. Equal to the bit to the built-in ``snip:reduce=per-sample``, under a name of its own.

    Formula: s = E[|θ · g|], the mean over the scoring samples, with g the gradient of each sample's own loss.

    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    Cost: one forward and one backward pass per sample.

    Source: Lee et al., 2019, with the mean taken after the magnitude.
    """

    samples: SampleLimit = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return |θ| times the mean of |g|."""
        mean = mean_of(probe.zeros(), self._parts(probe))
        return {name: (probe.targets[name] * absolute).abs() for name, absolute in mean.items()}

    def _parts(self, probe: Probe) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for inputs, targets in probe.batches(self.samples):
            yield from absolutes(probe.sample_grads(inputs, targets))
