"""Initialisation and assembly that the networks share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from forgetkit.contracts import Inputs
from forgetkit.errors import UsageError

_AS_TORCH_DRAWS = (nn.Linear, nn.BatchNorm2d, nn.LayerNorm)


def redraw_module(module: nn.Module) -> None:
    """Redraw the values of one module, not of its children, in place, from the global random state.

    A convolution's weights are Kaiming normal (fan-out, ReLU) and its bias is zero; a linear layer
    is drawn by ``reset_parameters``; a normalisation layer gets weight 1, bias 0 and initial running
    statistics. Any other module stays as it is. Source: the LURE
    code's ``models/ResNet.py``.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, _AS_TORCH_DRAWS):
        module.reset_parameters()


def image_shape(model: str, inputs: Inputs) -> tuple[int, int, int]:
    """Return channels, height and width; raise ``UsageError`` if samples are no images."""
    if len(inputs.shape) != 3:
        raise UsageError(
            f"{model} needs images of shape (channels, height, width), and a sample has the shape "
            f"{inputs.shape}; use the model mlp"
        )
    channels, height, width = inputs.shape
    return channels, height, width


def assemble(normalize: nn.Module, initialise: Callable[[nn.Module], None], **layers: nn.Module) -> nn.Sequential:
    """Chain ``normalize`` and the named layers, each drawn by ``initialise``."""
    for layer in layers.values():
        layer.apply(initialise)
    return nn.Sequential(OrderedDict(normalize=normalize, **layers))
