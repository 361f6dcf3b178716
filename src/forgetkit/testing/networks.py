"""Networks of a few hundred parameters, one for each property that a component must cope with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forgetkit.seeding import seeded_rng

CLASSES = 3


@dataclass(frozen=True, eq=False)
class NetworkFixture:
    """A network and its batches."""

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    @property
    def samples(self) -> int:
        """The number of samples."""
        return sum(len(targets) for _, targets in self.batches)


def _batches(shape: tuple[int, ...], *sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of standard normal inputs, with the labels in turn."""
    rng = torch.Generator().manual_seed(20230101)
    return [(torch.randn(size, *shape, generator=rng), torch.arange(size) % CLASSES) for size in sizes]


IMAGES, FEATURES = (2, 4, 4), (6,)


def _convolutional(*between: nn.Module, act: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Return a convolution, the layers ``between``, and two linear layers; Tanh gives every entry a gradient."""
    layers = [nn.Conv2d(2, 4, 3), *between, act(), nn.Flatten(), nn.Linear(16, 5), act(), nn.Linear(5, CLASSES)]
    return nn.Sequential(*layers)


def _fixture(
    seed: int, build: Callable[[], nn.Module], shape: tuple[int, ...] = IMAGES, sizes: tuple[int, ...] = (4, 4)
) -> NetworkFixture:
    with seeded_rng(seed):
        return NetworkFixture(build(), _batches(shape, *sizes))


def plain() -> NetworkFixture:
    """A small convolutional network."""
    return _fixture(1, _convolutional)


def hooked() -> NetworkFixture:
    """The plain network with two hooks on each module."""
    fixture = plain()
    for module in fixture.model.modules():
        module.register_forward_hook(_do_nothing)
        module.register_forward_pre_hook(_do_nothing)
    return fixture


def _do_nothing(module: nn.Module, *seen: object) -> None:
    pass


def frozen() -> NetworkFixture:
    """The plain network with a frozen convolution."""
    fixture = plain()
    next(fixture.model.children()).requires_grad_(False)
    return fixture


def tied() -> NetworkFixture:
    """A network in which two layers share one matrix."""
    with seeded_rng(2):
        first, again, head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
    again.weight = first.weight
    return NetworkFixture(
        nn.Sequential(OrderedDict(first=first, act=nn.Tanh(), again=again, head=head)), _batches(FEATURES, 4, 4)
    )


class Spare(nn.Module):
    """A network with a layer that the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(6, 2)
        self.body = nn.Linear(6, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Skip the spare layer."""
        return self.head(torch.tanh(self.body(x)))  # type: ignore[no-any-return]


def unused() -> NetworkFixture:
    """A network with a layer that the loss does not depend on."""
    return _fixture(3, Spare, FEATURES)


def batch_norm() -> NetworkFixture:
    """A network with batch normalisation whose statistics are not the batch's, and a batch of a single sample."""
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
    """A network with batch normalisation and dropout on images in [0, 1], half of them black on one side."""
    with seeded_rng(13):
        layers: list[nn.Module] = [nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(196, 5), nn.Tanh(), nn.Linear(5, CLASSES))
        images = torch.rand(16, *PIXELS)
        images[::2, :, :, :16] = 0.0
        model(images)  # in training mode, so that the running statistics are no longer 0 and 1
    labels = torch.arange(16) % CLASSES
    return NetworkFixture(
        model, [(images[start:stop], labels[start:stop]) for start, stop in ((0, 8), (8, 15), (15, 16))]
    )


def dropout() -> NetworkFixture:
    """A network with dropout, which draws in training mode."""
    return _fixture(5, lambda: _convolutional(nn.Dropout(0.5)))


class Scaled(nn.Module):
    """A network with a parameter of no dimension, and one of one that is no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(()))
        self.gate = nn.Parameter(torch.empty(6))
        self.head = nn.Linear(6, CLASSES)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw scale and gate, in place."""
        nn.init.uniform_(self.scale, 0.5, 1.5)
        nn.init.uniform_(self.gate, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each input by its gate, and all by the scale."""
        return self.head(torch.tanh(x * self.gate) * self.scale)  # type: ignore[no-any-return]


def scalars() -> NetworkFixture:
    """A network with parameters of no dimension, and of one that are no biases."""
    return _fixture(6, Scaled, FEATURES)


def channels_last() -> NetworkFixture:
    """The plain network in the other memory format."""
    fixture = plain()
    batches = [(inputs.to(memory_format=torch.channels_last), targets) for inputs, targets in fixture.batches]
    return NetworkFixture(fixture.model.to(memory_format=torch.channels_last), batches)


def half_precision() -> NetworkFixture:
    """The plain network with weights in bfloat16."""
    fixture = plain()
    fixture.model.to(torch.bfloat16)
    return fixture


def dead_units() -> NetworkFixture:
    """A network with two channels and a neuron that never fire."""
    fixture = _fixture(7, lambda: _convolutional(act=nn.ReLU))
    values = fixture.model.state_dict()
    values["0.bias"][:2] = -100.0
    values["3.bias"][0] = -100.0
    return fixture


DEAD = 4
"""The number of hidden units of :func:`useless`, of ten, that have no effect."""


def useless() -> NetworkFixture:
    """A network whose first hidden units have weights of zero on both sides; the others have an effect."""
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
    """A single linear layer, whose gradients have a closed form; batches of unequal size."""
    return _fixture(9, lambda: nn.Linear(6, CLASSES), FEATURES, (5, 3))


def normalised() -> NetworkFixture:
    """A network with normalisation layers of two kinds, wide enough that each kind of parameter has many entries."""
    with seeded_rng(10):
        layers: list[nn.Module] = [nn.Conv2d(2, 16, 3), nn.BatchNorm2d(16), nn.Tanh(), nn.Flatten()]
        layers += [nn.Linear(64, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, CLASSES)]
        model = nn.Sequential(*layers)
        for name, parameter in model.named_parameters():
            if name.startswith(("1.", "5.")):
                nn.init.normal_(parameter, std=0.1)
    model(_batches(IMAGES, 8)[0][0])  # in training mode, so that the running statistics are no longer 0 and 1
    return NetworkFixture(model, _batches(IMAGES, 4, 4))


def dead_and_normalised() -> NetworkFixture:
    """A network with channels that normalisation silences, in training mode too, and a neuron that never fires."""
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
        """Draw both, in place."""
        nn.init.normal_(self.weight, UNUSUAL_MEAN, UNUSUAL_STD)
        nn.init.constant_(self.bias, UNUSUAL_BIAS)


UNUSUAL_MEAN, UNUSUAL_STD, UNUSUAL_BIAS = 3.0, 0.1, -2.0


def unusual() -> NetworkFixture:
    """A network of layers with their own initial distribution, after training that left nothing of it."""
    fixture = _fixture(11, lambda: nn.Sequential(Unusual(6, 300), nn.Tanh(), Unusual(300, CLASSES)), FEATURES)
    with seeded_rng(11):
        for parameter in fixture.model.parameters():
            nn.init.normal_(parameter)
    return fixture
