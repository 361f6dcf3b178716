"""A multi-layer perceptron."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Annotated

from pydantic import Field
from torch import nn

from forgetkit.builtin.models._shared import assemble, redraw_module
from forgetkit.contracts import Inputs


@dataclass(frozen=True)
class Mlp:
    """Fully connected layers, for samples of any shape.

    A hidden layer is linear, layer normalisation and ReLU: without the normalisation the learning
    rate of 0.1 that the other networks take makes it diverge on images.

    width: units of each hidden layer.
    depth: hidden layers; 0 is a linear model.

    Cost: 855,562 parameters for colour images of 32×32 pixels and ten classes.

    Source: a common pattern, not the paper's.
    """

    width: Annotated[int, Field(ge=1)] = 256
    depth: Annotated[int, Field(ge=0)] = 2

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        """Build the network."""
        units = prod(inputs.shape)
        hidden = nn.Sequential()
        for _ in range(self.depth):
            hidden.append(nn.Linear(units, self.width, bias=False))
            hidden.append(nn.LayerNorm(self.width))
            hidden.append(nn.ReLU())
            units = self.width
        return assemble(
            normalize,
            self.initialise,
            flatten=nn.Flatten(),
            hidden=hidden,
            head=nn.Linear(units, inputs.classes),
        )

    def initialise(self, module: nn.Module) -> None:
        """Redraw the values of one module, not of its children, in place, from the global random state."""
        redraw_module(module)
