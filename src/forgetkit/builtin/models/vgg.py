"""VGG for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from forgetkit.builtin.models._shared import assemble, image_shape, redraw_module
from forgetkit.contracts import Inputs
from forgetkit.errors import UsageError

_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""A convolution's channels, in units of the first one's."""
_SMALLEST = 2 ** len(_STAGES)


@dataclass(frozen=True)
class Vgg16:
    """VGG-16 with batch normalisation and one linear head, for images from 32 × 32.

    The features are named as torchvision's ``vgg16_bn`` names them. The head reads the mean over the
    last map; its weights are drawn from N(0, 0.01²) and its bias is zero.

    width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.

    Cost: 14,728,266 parameters for colour images and ten classes.

    Source: configuration D of Simonyan and Zisserman, 2015; the head as in the LURE code's ``models/VGG.py``.
    """

    width: Annotated[int, Field(ge=1)] = 64

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        """Build the network; raise ``UsageError`` if samples are no images of at least 32 × 32."""
        channels, height, width = image_shape("vgg16-bn", inputs)
        if min(height, width) < _SMALLEST:
            raise UsageError(
                f"vgg16-bn halves an image {len(_STAGES)} times and needs at least {_SMALLEST} × {_SMALLEST} "
                f"pixels, not {height} × {width}; use larger images, or the model convnet or resnet18"
            )
        features = nn.Sequential()
        for stage in _STAGES:
            for factor in stage:
                outputs = factor * self.width
                features.append(nn.Conv2d(channels, outputs, 3, padding=1))
                features.append(nn.BatchNorm2d(outputs))
                features.append(nn.ReLU(inplace=True))
                channels = outputs
            features.append(nn.MaxPool2d(2))
        return assemble(
            normalize,
            self.initialise,
            features=features,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(channels, inputs.classes),
        )

    def initialise(self, module: nn.Module) -> None:
        """Redraw the values of one module, not of its children, in place, from the global random state."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        else:
            redraw_module(module)
