"""Optimal brain damage with a stochastic diagonal of the Hessian."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Probe, SampleLimit
from forgetkit_saliency.averages import mean_of


@dataclass(frozen=True)
class Hessian:
    """How much the loss would rise, to second order, if an entry became zero.

    Formula: s = ½ · max(h, 0) · θ² (obd) or ½ · h · θ² − g · θ (off-minimum), with g the gradient of the mean loss over
    the scoring samples and h the mean of v ⊙ Hv, H its Hessian, over vectors v of random signs: the diagonal of H.

    form: which terms count.
        obd: the second alone, as at a minimum, where a negative h can only be noise;
        off-minimum: both, signed; an entry whose removal lowers the loss scores below zero.
    probes: how many random vectors v; the error of h falls with the square root.
    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    Cost: per random vector, two forward and two backward passes over the samples.

    Source: LeCun et al., 1990; the estimate of the diagonal after Bekas et al., 2007.
    """

    form: Literal["obd", "off-minimum"] = "obd"
    probes: Annotated[int, Field(ge=1)] = 8
    samples: SampleLimit = 256

    @property
    def expected_failures(self) -> Mapping[str, str]:
        """With a sign, an entry without effect scores between the others."""
        signed = {"higher-is-keep": "signed: an entry without effect scores zero, above those whose removal helps"}
        return signed if self.form == "off-minimum" else {}

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return the second-order term, and the first-order term if the form has it."""
        diagonal = mean_of(probe.zeros(), self._estimates(probe))
        targets = probe.targets
        if self.form == "obd":
            return {name: h.clamp_min(0) * targets[name].square() / 2 for name, h in diagonal.items()}
        slope = probe.mean_grads(self.samples)
        return {name: (h * targets[name] / 2 - slope[name]) * targets[name] for name, h in diagonal.items()}

    def _estimates(self, probe: Probe) -> Iterator[tuple[float, Mapping[str, Tensor]]]:
        """v ⊙ Hv of each batch, with the same vectors v for each."""
        for inputs, targets in probe.batches(self.samples):
            for number in range(self.probes):
                vector = {name: _signs(probe, name, number) for name in probe.targets}
                product = probe.hvp(inputs, targets, vector)
                yield product.count, {name: vector[name] * value for name, value in product.items()}


def _signs(probe: Probe, name: str, number: int) -> Tensor:
    """Random signs, drawn on the CPU so that the device changes nothing."""
    target = probe.targets[name]
    bits = torch.randint(2, target.shape, generator=probe.rng_for(f"{name} {number}"))
    return (2 * bits - 1).to(target)
