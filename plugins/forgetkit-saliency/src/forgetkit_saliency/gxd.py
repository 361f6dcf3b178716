"""Gradient times displacement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from forgetkit.contracts import Origin, Probe, SampleLimit
from forgetkit.errors import ComponentError, OptionError
from forgetkit_saliency.units import assign


@dataclass(frozen=True)
class Gxd:
    """How much the coming reset changes the loss, to first order, with the values that will be drawn.

    Formula: s = |g · (ξ − θ)|, with g = ∂L/∂θ of the mean loss L over the scoring samples and ξ the fresh value
    of the entry; per unit, each of the n entries that compute it gets |Σ g · (ξ − θ)| / n, the sum over the n.

    reference: what ξ is: the value that a reset by ``masked`` will draw (draw), the value at the run's start (init),
        or zero, which is SNIP.
    origin: where a draw comes from, as the option ``fresh`` of ``masked``: original (which none means), layer-default
        or uniform. Only with reference=draw.
    samples: scoring samples at most: a count, a fraction of those available, or none for all.
    per: the group that is replaced as a whole.
        weight: each entry by itself;
        unit: a neuron or a channel, with its weights, its bias and its normalisation, as in the paper.

    Cost: one forward and one backward pass over the samples, and a draw for every parameter; per unit the network is
    traced once.

    Source: Elisii et al., 2026 (arXiv 2605.06834), of which the abstract alone was at hand; SNIP is the case ξ = 0.
    """

    reference: Literal["draw", "init", "zero"] = "draw"
    origin: Literal["original", "layer-default", "uniform"] | None = None
    samples: SampleLimit = 1024
    per: Literal["weight", "unit"] = "weight"

    def __post_init__(self) -> None:
        if self.origin is not None and self.reference != "draw":
            raise OptionError(f"gxd: origin={self.origin} has no use with reference={self.reference}: leave it out")

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return |g (ξ − θ)| of each entry, or of each unit's sum."""
        reset = self._reset(probe)
        changes = {
            name: gradient * (reset(name) - probe.targets[name])
            for name, gradient in probe.mean_grads(self.samples).items()
        }
        if self.per == "weight":
            return {name: change.abs_() for name, change in changes.items()}
        scores = {name: change.abs() for name, change in changes.items()}
        for group in probe.units:
            parts = [part for part in (*group.incoming, *group.bias, *group.norm) if part.name in changes]
            if parts:
                each = torch.cat([part.per_unit(changes[part.name], group.size) for part in parts], 1)
                for part in parts:
                    assign(part, scores[part.name], each.sum(1).abs() / each.shape[1])
        return scores

    def _reset(self, probe: Probe) -> Callable[[str], Tensor | float]:
        """The fresh values of a parameter, by name."""
        if self.reference == "zero":
            return lambda name: 0.0
        if self.reference == "init":
            return probe.reference("initial").__getitem__
        origin: Origin = self.origin or "original"

        def drawn(name: str) -> Tensor:
            try:
                return probe.fresh(name, origin)
            except ComponentError as error:
                raise OptionError(f"gxd: {error}, or choose reference=zero or init") from error

        return drawn
