"""L2 Init: regularisation towards the initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Intervention, InterventionContext, Writes
from forgetkit.errors import NoMatchError


@dataclass(frozen=True)
class L2Init(Intervention):
    """A penalty on how far the weights have gone from where they began.

    Formula: L + strength / 2 · Σ ‖θ − θ₀‖², over all parameters but those of normalisation layers, with θ₀ their values
    before the first step of the first mega-batch.

    strength: of the penalty. It takes the place of weight decay, which pulls to zero.

    Cost: at each step, a pass over the parameters; a copy of them.

    Source: Kumar et al., 2023.
    """

    strength: Annotated[float, Field(ge=0)] = 1e-3

    touches: ClassVar[frozenset[Writes]] = frozenset({"loss"})

    def begin(self, moment: InterventionContext) -> None:
        """The first time, what the weights are."""
        if not moment.state:
            context = moment.context
            norms = set(context.names("norm"))
            for name in context.names("all"):
                if name not in norms:
                    moment.state[name] = context.targets[name].clone()
            if not moment.state:
                raise NoMatchError("l2-init: this network has no parameter outside of normalisation layers")

    def loss(self, moment: InterventionContext) -> Tensor:
        """The penalty."""
        parameters = dict(moment.model.named_parameters())
        terms = [_squared_distance(parameters[name], begun) for name, begun in moment.state.items()]
        return self.strength / 2 * sum(terms[1:], terms[0])


def _squared_distance(value: Tensor, begun: Tensor) -> Tensor:
    """In single precision at least: a sum of so many would stop growing in half."""
    return (value - begun).to(torch.promote_types(value.dtype, torch.float32)).square().sum()
