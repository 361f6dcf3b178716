"""Optimal brain damage with the Fisher information for a Hessian."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from forgetkit.contracts import Probe, SampleLimit
from forgetkit.unlearning import class_probabilities

_VARIANTS, _REMEDY = "fisher-obd: sampled and exact", "use variant=empirical or batch"


@dataclass(frozen=True)
class FisherObd:
    """How much the loss would rise, to second order, if an entry became zero, with Fisher information as curvature.

    Formula: s = ½ · F · θ², with F = E[(∂ log p(y | x) / ∂θ)²] over the scoring samples x and labels y by variant.

    variant: whose gradient is squared, averaged over the samples; as in the built-in ``fisher``.
        empirical: the loss of each sample with its own label;
        sampled: of each sample with a label drawn from the prediction;
        exact: of each sample with every label, weighted by its predicted probability;
        batch: of a batch's mean loss (cheap; another quantity, not rank-equivalent).
    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    sampled and exact need class numbers as targets, and refuse others.

    Cost: one forward and one backward pass per sample (exact: per sample and class; batch: per batch).

    Source: LeCun et al., 1990, with the Hessian's diagonal replaced as in Theis et al., 2018.
    """

    variant: Literal["empirical", "sampled", "exact", "batch"] = "empirical"
    samples: SampleLimit = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return ½ F θ²."""
        total, seen = probe.zeros(), 0
        for inputs, targets in probe.batches(self.samples):
            seen += len(targets)
            for squares in self._squares(probe, inputs, targets):
                for name, square in squares.items():
                    total[name] += square
        return {name: probe.targets[name].square() * (fisher / seen) / 2 for name, fisher in total.items()}

    def _squares(self, probe: Probe, inputs: Tensor, targets: Tensor) -> Iterator[dict[str, Tensor]]:
        """Squared gradients, summed over samples."""
        if self.variant == "batch":
            yield {name: len(targets) * grad.square() for name, grad in probe.grads(inputs, targets).items()}
            return
        for labels, weights in self._labels(probe, inputs, targets):
            for chunk in probe.sample_grads(inputs, labels, weights):
                yield {name: grads.square().sum(0) for name, grads in chunk.items()}

    def _labels(self, probe: Probe, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The labels of a variant, and the weight of each sample's gradient."""
        if self.variant == "empirical":
            yield targets, None
            return
        probability = class_probabilities(probe, inputs, targets, _VARIANTS, _REMEDY)
        if self.variant == "sampled":
            drawn = torch.multinomial(probability.cpu(), 1, generator=probe.rng).flatten()
            yield drawn.to(targets.device), None
            return
        for label in range(probability.shape[-1]):
            # The square root, since squaring the gradient squares the weight too.
            yield torch.full_like(targets, label, dtype=torch.int64), probability[:, label].sqrt()
