"""Fisher information, its diagonal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from forgetkit.contracts import Probe, SampleLimit
from forgetkit.unlearning import class_probabilities

_VARIANTS, _REMEDY = "fisher: sampled and exact", "use variant=empirical or batch"


@dataclass(frozen=True)
class Fisher:
    """How much the predicted distribution depends on an entry: the diagonal of the Fisher information.

    Formula: s = E[(∂ log p(y | x) / ∂θ)²], the mean over the scoring samples x, with labels y by variant.

    variant: whose gradient is squared, averaged over the samples.
        empirical: the loss of each sample with its own label;
        sampled: of each sample with a label drawn from the prediction;
        exact: of each sample with every label, weighted by its predicted probability;
        batch: of a batch's mean loss (cheap; another quantity, not rank-equivalent).
    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    sampled and exact need class numbers as targets, and refuse others.

    Cost: one forward and one backward pass per sample (exact: per sample and class; batch: as SNIP).

    Source: the FIM row of table 8 in Ramkumar et al., 2023, which gives no formula; the diagonal is the
    only reading that scales.
    """

    variant: Literal["empirical", "sampled", "exact", "batch"] = "empirical"
    samples: SampleLimit = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return the mean over samples (or batches, weighted by size) of the squared gradient."""
        total = probe.zeros()
        seen = 0.0
        for inputs, targets in probe.batches(self.samples):
            for count, squares in self._squares(probe, inputs, targets):
                seen += count
                for name, square in squares.items():
                    total[name] += square
        return {name: value / seen for name, value in total.items()}

    def _squares(self, probe: Probe, inputs: Any, targets: Any) -> Iterator[tuple[float, dict[str, Tensor]]]:
        """How much samples count, and the sum of their squared gradients."""
        if self.variant == "batch":
            grads = probe.grads(inputs, targets)
            yield grads.count, {name: grads.count * grad.square() for name, grad in grads.items()}
            return
        if self.variant == "empirical":
            for chunk in probe.sample_grads(inputs, targets):
                yield chunk.count, chunk.sum(torch.square)
            return
        for labels, weights in self._labels(probe, inputs, targets):
            for chunk in probe.sample_grads(inputs, labels, weights):
                yield 0.0, {name: grads.square().sum(0) for name, grads in chunk.items()}
        yield float(len(targets)), {}

    def _labels(self, probe: Probe, inputs: Any, targets: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Labels by the prediction, and the weight of each sample's gradient."""
        probability = class_probabilities(probe, inputs, targets, _VARIANTS, _REMEDY)
        if self.variant == "sampled":
            drawn = torch.multinomial(probability.cpu(), 1, generator=probe.rng).flatten()
            yield drawn.to(probability.device), None
            return
        for label in range(probability.shape[-1]):
            # The square root, since squaring the gradient squares the weight too.
            yield torch.full((len(targets),), label, device=probability.device), probability[:, label].sqrt()
