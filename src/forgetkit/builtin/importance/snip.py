"""SNIP: connection sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from forgetkit.contracts import Probe, SampleLimit


@dataclass(frozen=True)
class Snip:
    """How much the loss would change if a connection were cut.

    Formula: s = |θ · g|, with g = ∂L/∂θ of the mean loss L over the scoring samples. The paper divides by the sum of s
    over all entries, which changes no ranking and is left out.

    samples: scoring samples at most: a count, a fraction of those available, or none for all.
    reduce: how batches become one score.
        abs-mean: of the gradient of the mean loss over all samples;
        mean-abs: the mean over batches of the absolute gradient of each (the same for a single batch);
        per-sample: the mean over samples of the absolute gradient of each sample's own loss.

    Cost: one forward and one backward pass over the samples; per-sample: one per sample.

    Source: Lee et al., 2019; equation 2 of Ramkumar et al., 2023.
    """

    samples: SampleLimit = 1024
    reduce: Literal["abs-mean", "mean-abs", "per-sample"] = "abs-mean"

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return |θ g|."""
        gradients = probe.mean_grads(self.samples) if self.reduce == "abs-mean" else self._mean_of_absolutes(probe)
        return {name: (probe.targets[name] * gradient).abs() for name, gradient in gradients.items()}

    def _mean_of_absolutes(self, probe: Probe) -> dict[str, Tensor]:
        """The mean of |g| over batches or samples, each by how much it counts."""
        mean, seen = probe.zeros(), 0.0
        for inputs, targets in probe.batches(self.samples):
            for count, absolutes in self._absolutes(probe, inputs, targets):
                seen += count
                for name, absolute in absolutes.items() if count else ():
                    mean[name] = mean[name].lerp(absolute, count / seen)  # for a single batch, exact to the bit
        return mean

    def _absolutes(self, probe: Probe, inputs: Any, targets: Any) -> Iterator[tuple[float, dict[str, Tensor]]]:
        """Yield how much samples count and their mean |g|: of the batch's gradient, or of its samples' gradients."""
        if self.reduce == "mean-abs":
            grads = probe.grads(inputs, targets)
            yield grads.count, {name: gradient.abs() for name, gradient in grads.items()}
            return
        for chunk in probe.sample_grads(inputs, targets):
            yield chunk.count, chunk.mean(torch.abs)
