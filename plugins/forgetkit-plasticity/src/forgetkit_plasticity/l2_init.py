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
    """A penalty on the distance of the weights from their initial values.

    Formula: L + strength / 2 · Σ ‖θ − θ₀‖², over all parameters but those of normalisation layers, with θ₀ their values
    before the first step of the first mega-batch.

    strength: strength of the penalty, which replaces weight decay.

    Cost: at each step, a pass over the parameters; a copy of them.

    Source: Kumar et al., 2023.
    """

    strength: Annotated[float, Field(ge=0)] = 1e-3

    touches: ClassVar[frozenset[Writes]] = frozenset({"loss"})

    def begin(self, moment: InterventionContext) -> None:
        """Store the initial weights, once."""
        if not moment.state:
            context = moment.context
            norms = set(context.names("norm"))
            for name in context.names("all"):
                if name not in norms:
                    moment.state[name] = context.targets[name].clone()
            if not moment.state:
                raise NoMatchError("l2-init: this network has no parameter outside of normalisation layers")

    def loss(self, moment: InterventionContext) -> Tensor:
        """Return the penalty."""
        parameters = dict(moment.model.named_parameters())
        terms = [_squared_distance(parameters[name], initial) for name, initial in moment.state.items()]
        return self.strength / 2 * sum(terms[1:], terms[0])


def _squared_distance(value: Tensor, initial: Tensor) -> Tensor:
    """In single precision at least: in half precision so long a sum would stop growing."""
    return (value - initial).to(torch.promote_types(value.dtype, torch.float32)).square().sum()
