"""Small networks in float64, their data, and what the formulas are checked against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

Batches = list[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def batches(*sizes: int, shape: tuple[int, ...] = (5,), seed: int = 0) -> Batches:
    rng = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, *shape, generator=rng, dtype=torch.float64), torch.randint(3, (n,), generator=rng))
        for n in sizes
    ]


def together(parts: Batches) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*parts, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def mlp(seed: int = 0) -> nn.Sequential:
    """43 parameters."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(5, 3).double()


def convnet(seed: int = 0, groups: int = 1) -> nn.Sequential:
    """Two channels of 5 x 5 to three classes, with batch normalisation whose statistics are not the batch's."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=groups), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 7), nn.ReLU(), nn.Linear(7, 3)),
    ).double()
    with torch.no_grad():
        for tensor in (*model[1].parameters(), *model[1].buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(4) + 0.5)
    return model.eval()


class Residual(nn.Module):
    """A stem, a block with an identity and one with a projection; the stem and the first block share a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.inside = nn.Conv2d(4, 3, 3, padding=1, bias=False)
        self.back = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.wide = nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False)
        self.short = nn.Conv2d(4, 5, 1, stride=2, bias=False)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.back(self.inside(x).relu())).relu()
        x = (self.wide(x) + self.short(x)).relu()
        return self.head(x.mean((2, 3)))


def residual(seed: int = 0) -> Residual:
    torch.manual_seed(seed)
    return Residual().double().eval()


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradient(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss = cross_entropy) -> dict[str, Tensor]:
    """By backward(), on a copy."""
    twin = copy.deepcopy(model)
    loss(twin(inputs), targets).backward()
    return {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors.values()])


def value_at(model: nn.Module, place: Tensor, inputs: Tensor, targets: Tensor, loss: Loss = cross_entropy) -> Tensor:
    """The loss with the parameters, all in one vector, at ``place``."""
    named = dict(model.named_parameters())
    parts = place.split([p.numel() for p in named.values()])
    at = {name: part.view(p.shape) for (name, p), part in zip(named.items(), parts, strict=True)}
    return loss(functional_call(model, at, (inputs,)), targets)


def hessian(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss = cross_entropy) -> Tensor:
    """The full matrix."""
    place = flat(parameters(model))
    return torch.autograd.functional.hessian(lambda at: value_at(model, at, inputs, targets, loss), place)
