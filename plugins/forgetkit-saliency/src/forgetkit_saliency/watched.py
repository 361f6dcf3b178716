"""What criteria that watch the training have in common."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from forgetkit.contracts import Probe
from forgetkit.errors import OptionError


def watched(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """Parameters that have a gradient, and it, in float32."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter, parameter.grad.detach().float()


def kept(probe: Probe, what: str, who: str) -> dict[str, Tensor]:
    """A tensor of the memory for each target; zeros for one that no step gave a gradient."""
    if not probe.memory:
        raise OptionError(
            f"{who} watches the training: attach it with forgetkit.attach, make a step, and pass its memory="
        )
    return {
        name: probe.memory.get(f"{what} {name}", torch.zeros_like(target)).to(target)
        for name, target in probe.targets.items()
    }
