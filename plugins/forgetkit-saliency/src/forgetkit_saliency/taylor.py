"""First-order Taylor expansion, per weight or per unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from forgetkit.contracts import Probe, SampleLimit, UnitGroup
from forgetkit_saliency.units import assign


@dataclass(frozen=True)
class Taylor:
    """How much the loss changes, to first order, if an entry or a whole filter is set to zero.

    Formula: s = |θ · g| per weight; per filter, each of the n weights that compute a unit gets Σ |θ · g| / n or
    (Σ θ · g)² / n, the sum over the n, with g = ∂L/∂θ of the mean loss L over the scoring samples.

    per: the group that is scored as a whole.
        weight: each entry by itself, which is SNIP;
        filter: the weights that compute a neuron or a channel, by the sum of their magnitudes;
        filter-squared: the same by their signed sum, squared, in which weights of one filter may cancel.
    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    Cost: one forward and one backward pass over the samples; per filter the network is traced once.

    Source: Molchanov et al., 2019.
    """

    per: Literal["weight", "filter", "filter-squared"] = "weight"
    samples: SampleLimit = 1024

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return |θ g| of each entry, or of each unit."""
        changes = {name: probe.targets[name] * grad for name, grad in probe.mean_grads(self.samples).items()}
        scores = {name: self._magnitude(change) for name, change in changes.items()}
        if self.per == "weight":
            return scores
        for group in probe.units:
            incoming = [part for part in group.incoming if part.name in changes]
            if incoming:
                each = torch.cat([part.per_unit(changes[part.name], group.size) for part in incoming], 1)
                self._spread(scores, group, self._of_units(each) / each.shape[1])
        return scores

    def _magnitude(self, change: Tensor) -> Tensor:
        """The score of an entry without a unit: a filter of one weight."""
        return change.square() if self.per == "filter-squared" else change.abs()

    def _of_units(self, each: Tensor) -> Tensor:
        return each.sum(1).square() if self.per == "filter-squared" else each.abs().sum(1)

    def _spread(self, scores: Mapping[str, Tensor], group: UnitGroup, values: Tensor) -> None:
        """Give biases and normalisation the score of their unit, so that a unit is reset as a whole."""
        for part in (*group.incoming, *group.bias, *group.norm):
            if part.name in scores:
                assign(part, scores[part.name], values)
