"""Interventions that do one thing each, and a small network for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forgetkit.contracts import Intervention, InterventionContext


def net(width: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


@dataclass(frozen=True)
class Doubles(Intervention):
    """Take longer steps."""

    times: float = 2.0

    def before_step(self, moment: InterventionContext) -> None:
        for p in moment.model.parameters():
            assert p.grad is not None
            p.grad.mul_(self.times)


@dataclass(frozen=True)
class Pull(Intervention):
    """Pull weights to zero."""

    strength: float = 0.5

    def loss(self, moment: InterventionContext) -> Tensor:
        return self.strength * sum(p.square().sum() for p in moment.model.parameters())
