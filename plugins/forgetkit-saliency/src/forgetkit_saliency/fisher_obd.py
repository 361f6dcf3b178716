"""Optimal brain damage with the Fisher information for a Hessian."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
        total, seen = probe.zeros(), 0.0
        for inputs, targets in probe.batches(self.samples):
            for count, squares in self._squares(probe, inputs, targets):
                seen += count
                for name, square in squares.items():
                    total[name] += square
        return {name: probe.targets[name].square() * (fisher / seen) / 2 for name, fisher in total.items()}

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
