"""Networks of a few hundred parameters, one for each circumstance that a component must get along with."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forgetkit.seeding import seeded_rng

CLASSES = 3


@dataclass(frozen=True, eq=False)
class NetworkFixture:
    """A network, and the batches that it is looked at on."""

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(len(targets) for _, targets in self.batches)


def _batches(shape: tuple[int, ...], *sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Standard normal inputs, labels in turn."""
    rng = torch.Generator().manual_seed(20230101)
    return [(torch.randn(size, *shape, generator=rng), torch.arange(size) % CLASSES) for size in sizes]


IMAGES, FEATURES = (2, 4, 4), (6,)


def _convolutional(*between: nn.Module, act: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Convolution, what stands ``between``, and two linear layers; Tanh, so that every entry has a gradient."""
    layers = [nn.Conv2d(2, 4, 3), *between, act(), nn.Flatten(), nn.Linear(16, 5), act(), nn.Linear(5, CLASSES)]
    return nn.Sequential(*layers)


def plain() -> NetworkFixture:
    """A small convolutional network."""
    with seeded_rng(1):
        return NetworkFixture(_convolutional(), _batches(IMAGES, 4, 4))


def frozen() -> NetworkFixture:
    """Its convolution is not trained."""
    with seeded_rng(1):
        model = _convolutional()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    return NetworkFixture(model, _batches(IMAGES, 4, 4))


def tied() -> NetworkFixture:
    """Two layers share one matrix."""
    with seeded_rng(2):
        first, again, head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
    again.weight = first.weight
    return NetworkFixture(
        nn.Sequential(OrderedDict(first=first, act=nn.Tanh(), again=again, head=head)), _batches(FEATURES, 4, 4)
    )


class Spare(nn.Module):
    """A network with a layer that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(6, 2)
        self.body = nn.Linear(6, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Past the spare layer."""
        return self.head(torch.tanh(self.body(x)))  # type: ignore[no-any-return]


def unused() -> NetworkFixture:
    """The loss does not depend on one of the layers."""
    with seeded_rng(3):
        return NetworkFixture(Spare(), _batches(FEATURES, 4, 4))


def batch_norm() -> NetworkFixture:
    """Batch normalisation with running statistics that are not the batch's, and a batch of a single sample."""
    with seeded_rng(4):
        norm = nn.BatchNorm2d(4)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias)
        model = _convolutional(norm)
    with torch.no_grad():
        for at, buffer in enumerate(b for b in norm.buffers() if b.is_floating_point()):
            buffer.copy_(torch.tensor([0.5, 1.5, 0.7, 1.1]) + at)
    return NetworkFixture(model, _batches(IMAGES, 4, 3, 1))


PIXELS = (3, 32, 32)


def pixels() -> NetworkFixture:
    """Images with pixels in [0, 1], half of them black on one side, before batch normalisation and dropout."""
    with seeded_rng(13):
        layers: list[nn.Module] = [nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(196, 5), nn.Tanh(), nn.Linear(5, CLASSES))
        images = torch.rand(16, *PIXELS)
        images[::2, :, :, :16] = 0.0
        model(images)  # in training mode: its running statistics are no longer 0 and 1
    labels = torch.arange(16) % CLASSES
    return NetworkFixture(
        model, [(images[start:stop], labels[start:stop]) for start, stop in ((0, 8), (8, 15), (15, 16))]
    )


def dropout() -> NetworkFixture:
    """Dropout, which draws in training mode."""
    with seeded_rng(5):
        return NetworkFixture(_convolutional(nn.Dropout(0.5)), _batches(IMAGES, 4, 4))


class Scaled(nn.Module):
    """A network with a parameter of no dimension, and one of one that is no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(()))
        self.gate = nn.Parameter(torch.empty(6))
        self.head = nn.Linear(6, CLASSES)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw scale and gate anew, in place."""
        nn.init.uniform_(self.scale, 0.5, 1.5)
        nn.init.uniform_(self.gate, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        """Each input times its gate, and all times the scale."""
        return self.head(torch.tanh(x * self.gate) * self.scale)  # type: ignore[no-any-return]


def scalars() -> NetworkFixture:
    """Parameters without a dimension and with one."""
    with seeded_rng(6):
        return NetworkFixture(Scaled(), _batches(FEATURES, 4, 4))


def channels_last() -> NetworkFixture:
    """The plain network in the other memory format."""
    same = plain()
    batches = [(inputs.to(memory_format=torch.channels_last), targets) for inputs, targets in same.batches]
    return NetworkFixture(same.model.to(memory_format=torch.channels_last), batches)


def half_precision() -> NetworkFixture:
    """The plain network with weights in bfloat16."""
    return NetworkFixture(plain().model.to(torch.bfloat16), plain().batches)


def dead_units() -> NetworkFixture:
    """Two channels and a neuron that never fire."""
    with seeded_rng(7):
        model = _convolutional(act=nn.ReLU)
    values = model.state_dict()
    values["0.bias"][:2] = -100.0
    values["3.bias"][0] = -100.0
    return NetworkFixture(model, _batches(IMAGES, 4, 4))


DEAD = 4
"""How many of the ten hidden units of :func:`useless` have no part in anything."""


def useless() -> NetworkFixture:
    """The first hidden units have weights of zero on both sides; all the others matter."""
    with seeded_rng(8):
        body, head = nn.Linear(6, 10), nn.Linear(10, CLASSES)
        nn.init.normal_(body.weight, std=0.5)
        nn.init.normal_(head.weight, std=0.5)
    with torch.no_grad():
        body.weight[:DEAD] = 0
        body.bias[:DEAD] = 0
        head.weight[:, :DEAD] = 0
    return NetworkFixture(nn.Sequential(OrderedDict(body=body, act=nn.Tanh(), head=head)), _batches(FEATURES, 8, 8))


def linear() -> NetworkFixture:
    """A single linear layer, whose gradients can be written down; batches of unequal size."""
    with seeded_rng(9):
        return NetworkFixture(nn.Linear(6, CLASSES), _batches(FEATURES, 5, 3))


def normalised() -> NetworkFixture:
    """Wide layers between normalisation layers of two kinds, so that every kind of parameter has many entries."""
    with seeded_rng(10):
        layers: list[nn.Module] = [nn.Conv2d(2, 16, 3), nn.BatchNorm2d(16), nn.Tanh(), nn.Flatten()]
        layers += [nn.Linear(64, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, CLASSES)]
        model = nn.Sequential(*layers)
        for name, parameter in model.named_parameters():
            if name.startswith(("1.", "5.")):
                nn.init.normal_(parameter, std=0.1)
    model(_batches(IMAGES, 8)[0][0])  # in training mode: its running statistics are no longer 0 and 1
    return NetworkFixture(model, _batches(IMAGES, 4, 4))


def dead_and_normalised() -> NetworkFixture:
    """Channels that normalisation silences, in training mode too, and a neuron that never fires."""
    with seeded_rng(12):
        layers: list[nn.Module] = [nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, CLASSES)]
        model = nn.Sequential(*layers)
    values = model.state_dict()
    values["1.weight"][:3] = 0.0
    values["1.bias"][:3] = -1.0
    values["4.bias"][0] = -100.0
    model(_batches(IMAGES, 8)[0][0])
    return NetworkFixture(model, _batches(IMAGES, 4, 4))


class Unusual(nn.Linear):
    """A linear layer that starts from N(3, 1/10), its bias from -2."""

    def reset_parameters(self) -> None:
        """Draw anew, in place."""
        nn.init.normal_(self.weight, UNUSUAL_MEAN, UNUSUAL_STD)
        nn.init.constant_(self.bias, UNUSUAL_BIAS)


UNUSUAL_MEAN, UNUSUAL_STD, UNUSUAL_BIAS = 3.0, 0.1, -2.0


def unusual() -> NetworkFixture:
    """Layers whose initial distribution is their own, trained until nothing of it is left."""
    with seeded_rng(11):
        model = nn.Sequential(Unusual(6, 300), nn.Tanh(), Unusual(300, CLASSES))
        for parameter in model.parameters():
            nn.init.normal_(parameter)
    return NetworkFixture(model, _batches(FEATURES, 4, 4))
