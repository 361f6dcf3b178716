"""Networks, loops and looks that the tests of this package share."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.contracts import Change, Intervention, InterventionContext, ReinitContext, UnitGroup

Batch = tuple[Tensor, Tensor]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(inputs, 4, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(4)
        self.outer = nn.Conv2d(4, outputs, 3, padding=1)
        self.outer_norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inside = torch.relu(self.inner_norm(self.inner(x)))
        return torch.relu(self.outer_norm(self.outer(inside)) + self.shortcut(x))


class Residual(nn.Module):
    """A stem, an identity shortcut, a projecting one, and a head with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.same, self.wider = Block(5, 5), Block(5, 6)
        self.hidden, self.head = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = self.wider(self.same(x)).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


def residual() -> Residual:
    """With running statistics that are not as in a network just made."""
    torch.manual_seed(0)
    model = Residual()
    model.train()(torch.randn(20, 2, 4, 4) + 1)
    return model


def silenced(model: Residual) -> Residual:
    """The first unit of every group never fires, and every other one of the hidden layer does."""
    with torch.no_grad():
        model.hidden.bias.fill_(2.0)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for bias in (*(norm.bias for norm in norms), model.hidden.bias):
            bias[0] = -100.0
    return model


def mlp() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def flat() -> nn.Sequential:
    """Two convolutions, flattened maps, two linear layers."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def images(*sizes: int) -> list[Batch]:
    rng = torch.Generator().manual_seed(3)
    return [(torch.randn(size, 2, 4, 4, generator=rng), torch.arange(size) % 3) for size in sizes]


def vectors(*sizes: int, width: int = 5) -> list[Batch]:
    rng = torch.Generator().manual_seed(4)
    return [(torch.randn(size, width, generator=rng), torch.arange(size) % 3) for size in sizes]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A network and its optimizer at a moment."""

    tensors: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer) -> Snapshot:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return cls(
            {name: tensor.detach().clone() for name, tensor in tensors.items()},
            {
                name: {k: v.clone() for k, v in optimizer.state[p].items() if k != "step" and isinstance(v, Tensor)}
                for name, p in model.named_parameters()
                if p in optimizer.state
            },
        )


@dataclass(frozen=True)
class Watch(Intervention):
    """Keeps θ and g before the optimizer steps, and a snapshot after those interventions that come before it."""

    seen: list[Snapshot] = field(default_factory=list)
    gradients: list[dict[str, Batch]] = field(default_factory=list)

    def before_step(self, moment: InterventionContext) -> None:
        own = moment.model.named_parameters()
        self.gradients.append({n: (p.detach().clone(), p.grad.clone()) for n, p in own if p.grad is not None})

    def after_step(self, moment: InterventionContext) -> None:
        self.seen.append(Snapshot.of(moment.model, moment.optimizer))


@dataclass(eq=False)
class Loop:
    """A training loop of one's own with ``component``, watched before and after it acts at a step."""

    model: nn.Module
    component: Intervention
    optimizer: torch.optim.Optimizer | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.optimizer = self.optimizer or torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.before, self.after = Watch(), Watch()
        self.attached = forgetkit.attach(
            self.model, self.optimizer, [self.before, self.component, self.after], seed=self.seed
        )

    @property
    def state(self) -> dict[str, Tensor]:
        return self.attached.state_dict()["components"][1]["state"]

    def train(self, batches: Sequence[Batch], epochs: int = 1, *, begin: bool = True) -> Loop:
        if begin:
            self.attached.begin(*batches[0])
        assert self.optimizer is not None
        for _ in range(epochs):
            for inputs, targets in batches:
                self.model.train()
                with self.attached.step(inputs, targets) as step:
                    loss = cross_entropy(self.model(inputs), targets) + step.loss()
                    self.optimizer.zero_grad()
                    loss.backward()
                    step.before()
                    self.optimizer.step()
            self.attached.after_epoch()
        return self


@dataclass(frozen=True)
class _Look:
    """Takes note of the groups of units."""

    found: list[Any]
    changes_nothing: ClassVar[bool] = True

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        self.found.extend(context.units)
        return ()


def groups_of(model: nn.Module, batch: Batch, *, coupled: bool = True) -> tuple[UnitGroup, ...]:
    found: list[UnitGroup] = []
    forgetkit.unlearn(copy.deepcopy(model), [batch], reinit=_Look(found))
    return tuple(group for group in found if coupled or not group.coupled)


def silent_units(group: UnitGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    """Which units nobody reads."""
    parts = [share.per_unit(tensors[share.name], group.size).abs().sum(1) for share in group.outgoing]
    return torch.stack(parts).sum(0) == 0
