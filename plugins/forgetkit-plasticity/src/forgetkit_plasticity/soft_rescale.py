"""Soft weight rescaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from forgetkit.contracts import Intervention, InterventionContext, Writes
from forgetkit.errors import NoMatchError


@dataclass(frozen=True)
class SoftRescale(Intervention):
    """Keep each layer's weights near their initial norm, without a change to the predictions.

    Formula: at each step, layer by layer, W ← c · W with c = (strength · ‖W₀‖ + (1 − strength) · ‖W‖) / ‖W‖, and its
    bias by the product of the c of all layers since the last one that normalises, its own included.

    strength: 0 changes nothing; 1 keeps the initial norms.

    Cost: at each step, two passes over the weights.

    Source: soft weight rescaling (arXiv 2507.04683, 2025).
    """

    strength: Annotated[float, Field(ge=0, le=1)] = 1e-3

    touches: ClassVar[frozenset[Writes]] = frozenset({"weights", "biases"})

    def begin(self, moment: InterventionContext) -> None:
        """The first time, the norms."""
        if not moment.state:
            context = moment.context
            for name in context.names("conv-linear"):
                moment.state[name] = torch.linalg.vector_norm(context.targets[name].float())
            if not moment.state:
                raise NoMatchError("soft-rescale: this network has no convolution and no fully connected layer")

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        """Every layer in the order of execution; what two layers share once."""
        parameters = dict(moment.model.named_parameters())
        product = torch.ones(())
        done: set[str] = set()
        for layer in moment.context.layers:
            if layer.kind == "norm":
                product = torch.ones(())
            if layer.kind != "weight":
                continue
            own = [name for name in layer.parameters if name not in done]
            done.update(own)
            weights = [name for name in own if name in moment.state]
            for name in weights:
                norm = torch.linalg.vector_norm(parameters[name].float())
                wanted = self.strength * moment.state[name] + (1 - self.strength) * norm
                factor = torch.where(norm > 0, wanted / norm, 1)  # there is no length to give to zeros
                parameters[name].mul_(factor)
                product = product.to(factor.device) * factor
            for name in own:
                if name not in moment.state:
                    parameters[name].mul_(product)
