"""SNIP: connection sensitivity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from forgetkit.contracts import Amount, Probe


@dataclass(frozen=True)
class Snip:
    """How much the loss would change if a connection were cut.

    Formula: s = |θ · g|, with g = ∂L/∂θ of the mean loss L over the scoring samples. The paper divides by the sum of s
    over all entries, which changes no ranking and is left out.

    samples: scoring samples at most, out of those offered: a count, a share of them, or none for all.
    reduce: how batches become one score.
        abs-mean: of the gradient of the mean loss over all samples;
        mean-abs: the mean over batches of the absolute gradient of each (the same where there is one batch);
        per-sample: the mean over samples of the absolute gradient of each sample's own loss.

    Cost: one forward and one backward pass over the samples; per-sample: one per sample.

    Source: Lee et al., 2019; equation 2 of Ramkumar et al., 2023.
    """

    samples: Amount = 1024
    reduce: Literal["abs-mean", "mean-abs", "per-sample"] = "abs-mean"

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """|θ g|, reduced as asked."""
        gradients = probe.mean_grads(self.samples) if self.reduce == "abs-mean" else self._mean_of_absolutes(probe)
        return {name: (probe.targets[name] * gradient).abs() for name, gradient in gradients.items()}

    def _mean_of_absolutes(self, probe: Probe) -> dict[str, Tensor]:
        """The mean of |g| over batches, each counted by its size, or over samples."""
        total, seen = probe.zeros(), 0
        for inputs, targets in probe.batches(self.samples):
            if self.reduce == "mean-abs":
                for name, gradient in probe.grads(inputs, targets).items():
                    total[name] += len(targets) * gradient.abs()
            else:
                for chunk in probe.sample_grads(inputs, targets):
                    for name, gradients in chunk.items():
                        total[name] += gradients.abs().sum(0)
            seen += len(targets)
        return {name: gradient / seen for name, gradient in total.items()}
