"""Fisher information, its diagonal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

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
        seen = 0
        for inputs, targets in probe.batches(self.samples):
            for squares in self._squares(probe, inputs, targets):
                for name, square in squares.items():
                    total[name] += square
            seen += len(targets)
        return {name: value / seen for name, value in total.items()}

    def _squares(self, probe: Probe, inputs: Tensor, targets: Tensor) -> Iterator[dict[str, Tensor]]:
        """Squared gradients, summed over samples."""
        if self.variant == "batch":
            yield {name: len(targets) * grad.square() for name, grad in probe.grads(inputs, targets).items()}
        elif self.variant == "exact":
            probability = class_probabilities(probe, inputs, targets, _VARIANTS, _REMEDY)
            for label in range(probability.shape[-1]):
                every = torch.full_like(targets, label, dtype=torch.int64)
                # The square root, since squaring the gradient squares the weight too.
                yield from _sum_chunks(probe.sample_grads(inputs, every, probability[:, label].sqrt()))
        else:
            if self.variant == "sampled":
                probability = class_probabilities(probe, inputs, targets, _VARIANTS, _REMEDY)
                targets = torch.multinomial(probability.cpu(), 1, generator=probe.rng).flatten().to(targets.device)
            yield from _sum_chunks(probe.sample_grads(inputs, targets))


def _sum_chunks(chunks: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    for chunk in chunks:
        yield {name: grads.square().sum(0) for name, grads in chunk.items()}
