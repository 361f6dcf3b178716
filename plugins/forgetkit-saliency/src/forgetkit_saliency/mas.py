"""Memory aware synapses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from forgetkit.contracts import Probe, SampleLimit
from forgetkit_saliency.averages import absolutes, mean_of


@dataclass(frozen=True)
class Mas:
    """How much the norm of the outputs depends on an entry; needs no labels.

    Formula: s = E[|∂‖f(x)‖² / ∂θ|], the mean over the scoring samples x, with f the outputs (logits).

    variant: the gradient whose magnitude is averaged.
        per-sample: of each sample;
        batch: of a batch's mean ‖f‖² (cheap; gradients of different sign cancel).
    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    Cost: one forward and one backward pass per sample; batch: per batch.

    Source: Aljundi et al., 2018, with the squared length of all outputs.
    """

    variant: Literal["per-sample", "batch"] = "per-sample"
    samples: SampleLimit = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return the mean of |∂‖f‖²/∂θ|."""
        return mean_of(probe.zeros(), self._parts(probe))

    def _parts(self, probe: Probe) -> Iterator[tuple[float, Mapping[str, Tensor]]]:
        for inputs, targets in probe.batches(self.samples):
            if self.variant == "per-sample":
                yield from absolutes(probe.sample_grads(inputs, targets, loss=_length))
            else:
                grads = probe.grads(inputs, targets, loss=_length)
                yield grads.count, {name: grad.abs() for name, grad in grads.items()}


def _length(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared length of the outputs."""
    return outputs.square().sum() / len(outputs)
