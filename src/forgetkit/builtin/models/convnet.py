"""A small convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from forgetkit.builtin.models._shared import assemble, image_shape, redraw_module
from forgetkit.contracts import Inputs


@dataclass(frozen=True)
class ConvNet:
    """Three convolutions and a linear head: fast on a CPU, for images of any size.

    Each block is a 3 × 3 convolution, batch normalisation and ReLU, and halves maps of at least
    4 × 4. The head reads the mean over the image.

    width: channels of the first block; the other two have twice as many.

    Cost: 57,130 parameters for colour images and ten classes.

    Source: a common pattern, not the paper's.
    """

    width: Annotated[int, Field(ge=1)] = 32

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        """Build the network; raise ``UsageError`` if samples are no images."""
        channels, *sides = image_shape("convnet", inputs)
        side = min(sides)
        features = nn.Sequential()
        for outputs in (self.width, 2 * self.width, 2 * self.width):
            features.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
            features.append(nn.BatchNorm2d(outputs))
            features.append(nn.ReLU())
            if side >= 4:  # batch normalisation could not average over a map of 1 × 1
                features.append(nn.MaxPool2d(2))
                side //= 2
            channels = outputs
        return assemble(
            normalize,
            self.initialise,
            features=features,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(channels, inputs.classes),
        )

    def initialise(self, module: nn.Module) -> None:
        """Redraw the values of one module, not of its children, in place, from the global random state."""
        redraw_module(module)
