"""Shared parts of criteria that watch the training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from forgetkit.contracts import Probe
from forgetkit.errors import OptionError


def gradients_of(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """The parameters that have a gradient, and the gradients in float32."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter, parameter.grad.detach().float()


def recorded(probe: Probe, what: str, name: str) -> dict[str, Tensor]:
    """The recorded tensor of each target; zeros if no step gave a gradient."""
    if not probe.memory:
        raise OptionError(
            f"{name} watches the training: attach it with forgetkit.attach, make a step, and pass its memory="
        )
    return {
        name: probe.memory.get(f"{what} {name}", torch.zeros_like(target)).to(target)
        for name, target in probe.targets.items()
    }
