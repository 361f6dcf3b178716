"""Hare and tortoise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from forgetkit.contracts import Intervention, InterventionContext, Writes

_SLOW = "slow "


@dataclass(frozen=True)
class HareTortoise(Intervention):
    """A slow average follows the network, and the network periodically returns to it.

    Formula: slow ← momentum · slow + (1 − momentum) · θ at each step, and θ ← slow after every few epochs; the same for
    running statistics.

    momentum: momentum of the slow average.
    every: epochs between two returns, counted over the whole run.

    Cost: at each step, a pass over the parameters; a copy of them.

    Source: Lee et al., 2024.
    """

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    every: Annotated[int, Field(ge=1)] = 10

    touches: ClassVar[frozenset[Writes]] = frozenset({"weights", "biases", "norm", "stats"})
    test_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"every": 3})

    def begin(self, moment: InterventionContext) -> None:
        """Start the slow average at the network's values, once."""
        if not moment.state:
            context = moment.context
            for name, value in {**context.targets, **context.buffers}.items():
                if value.is_floating_point():  # no counters
                    moment.state[_SLOW + name] = _copy(value)

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        """Update the slow average."""
        for name, value in _tensors(moment.model).items():
            slow = moment.state.get(_SLOW + name)
            if slow is not None:
                slow.lerp_(value.to(slow.dtype), 1 - self.momentum)

    @torch.no_grad()
    def after_epoch(self, moment: InterventionContext) -> None:
        """Copy the slow average into the network when a return is due."""
        epochs = moment.state.setdefault("epochs", torch.zeros((), dtype=torch.int64))
        epochs += 1
        if int(epochs) % self.every == 0:
            for name, value in _tensors(moment.model).items():
                slow = moment.state.get(_SLOW + name)
                if slow is not None:
                    value.copy_(slow)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _copy(value: Tensor) -> Tensor:
    """In single precision at least: half precision would round a thousandth of a difference away."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
