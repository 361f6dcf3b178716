"""Residual networks for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from forgetkit.builtin._torchvision import importing_torchvision
from forgetkit.builtin.models._shared import image_shape, redraw_module
from forgetkit.contracts import Inputs


@dataclass(frozen=True)
class _ResNet:
    """Base class of the residual networks, which differ in their sizes."""

    width: Annotated[int, Field(ge=1)] = 64

    name: ClassVar[str]
    bottleneck: ClassVar[bool]
    blocks: ClassVar[tuple[int, int, int, int]]
    widening: ClassVar[int] = 1

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        """Build the network; raise ``UsageError`` if samples are no images."""
        image_shape(self.name, inputs)
        with importing_torchvision(self.name):
            from forgetkit.builtin.models._small_resnet import SmallResNet
        network = SmallResNet(self.bottleneck, self.blocks, self.width, self.widening, inputs.shape[0], inputs.classes)
        network.apply(self.initialise)
        network.normalize = normalize
        return network

    def initialise(self, module: nn.Module) -> None:
        """Redraw the values of one module, not of its children, in place, from the global random state."""
        redraw_module(module)


@dataclass(frozen=True)
class ResNet18(_ResNet):
    """ResNet-18 for small images: a 3 × 3 stem and no max-pooling.

    The paper's main network.

    width: channels of the first stage; the other three have 2, 4 and 8 times as many.

    Cost: 11,173,962 parameters for colour images and ten classes.

    Source: He et al., 2016; Ramkumar et al., 2023, appendix A.5.
    """

    name = "resnet18"
    bottleneck = False
    blocks = (2, 2, 2, 2)


@dataclass(frozen=True)
class ResNet34(_ResNet):
    """ResNet-34 for small images: a 3 × 3 stem and no max-pooling.

    width: channels of the first stage; the other three have 2, 4 and 8 times as many.

    Cost: 21,282,122 parameters for colour images and ten classes.

    Source: He et al., 2016; the stem as in the paper's ResNet-18.
    """

    name = "resnet34"
    bottleneck = False
    blocks = (3, 4, 6, 3)


@dataclass(frozen=True)
class ResNet50(_ResNet):
    """ResNet-50 for small images: a 3 × 3 stem and no max-pooling.

    width: channels of the first stage; the other three have 2, 4 and 8 times as many.

    Cost: 23,520,842 parameters for colour images and ten classes.

    Source: He et al., 2016; Ramkumar et al., 2023, appendix A.5.
    """

    name = "resnet50"
    bottleneck = True
    blocks = (3, 4, 6, 3)


@dataclass(frozen=True)
class WideResNet50(_ResNet):
    """Wide ResNet-50-2 for small images: ResNet-50 with bottlenecks twice as wide.

    width: channels of the first stage; the other three have 2, 4 and 8 times as many.

    Cost: 66,847,050 parameters for colour images and ten classes.

    Source: Zagoruyko and Komodakis, 2016; Ramkumar et al., 2023, appendix A.5.
    """

    name = "wide-resnet50-2"
    bottleneck = True
    blocks = (3, 4, 6, 3)
    widening = 2
