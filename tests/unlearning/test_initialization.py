"""Which code initialises a layer is read from the constructors around it, whatever the layers are called."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import init as aliased

from forgetkit.seeding import seeded_rng
from forgetkit.unlearning.initialization import RESETS, InitializationCode


class Plain(nn.Module):
    """Layers that initialise themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(40, 40)
        self.head = nn.Linear(40, 40)


class InConstructor(Plain):
    def __init__(self) -> None:
        super().__init__()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.0)


class ByApply(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.apply(_wide)


class ByMethod(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.set_up()

    def set_up(self) -> None:
        for module in self.children():
            aliased.normal_(module.weight)


class Base(Plain):
    def __init__(self) -> None:
        super().__init__()
        _wide_all(self)


class ByBase(Base):
    """Everything happens in the base class, by way of a helper."""


class ByData(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.head.weight.data = torch.randn(40, 40)


class ByParameter(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.head.weight = nn.Parameter(torch.randn(40, 40))


class ByDefault(Plain):
    def __init__(self, initialise: Callable[[Tensor], Tensor] = nn.init.normal_) -> None:
        super().__init__()
        initialise(self.head.weight)


class ByPartOfTheStep(Plain):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.head.weight.mul_(30)


class ByMetaclass(Plain, metaclass=type("Meta", (type,), {"__call__": lambda cls: _widened(type.__call__(cls))})):
    """Initialised by what makes its instances."""


class Declared(Plain):
    """A script calls this method after construction."""

    def init_weights(self) -> None:
        self.apply(_wide)


class Outer(nn.Module):
    """The code is two levels above the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Plain())
        for parameter in self.inner.parameters():
            nn.init.uniform_(parameter, -3, 3)


class OwnConstructor(nn.Linear):
    """A layer whose own constructor goes beyond ``reset_parameters``."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)
        nn.init.ones_(self.weight)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = OwnConstructor(40, 40)


def _wide(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight)


def _wide_all(model: nn.Module) -> None:
    for module in model.modules():
        _wide(module)


def _widened(model: nn.Module) -> nn.Module:
    _wide_all(model)
    return model


class ResetsChildren(nn.Module):
    """The convention of torch_geometric: the container's own ``reset_parameters`` initialises its children."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(40, 40)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.lin.reset_parameters()
        nn.init.normal_(self.lin.bias)


class Positions(nn.Module):
    """Buffers and masks computed in a constructor initialise no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.zeros(4, 4).masked_fill_(torch.ones(4, 4).triu(1).bool(), -math.inf))
        self.scale = nn.Parameter(torch.ones(1))
        self.hidden = nn.Linear(40, 40)


def initialised_elsewhere(model: nn.Module, path: str) -> bool:
    code = InitializationCode(model)
    return bool(code.containers(path)) or any(
        code.own(path, name) for name in (*model.get_submodule(path)._parameters, "")
    )


@pytest.mark.parametrize(
    "network",
    [
        InConstructor,
        ByApply,
        ByMethod,
        ByBase,
        ByData,
        ByParameter,
        ByDefault,
        ByPartOfTheStep,
        ByMetaclass,
        Declared,
        Own,
    ],
)
def test_code_that_writes_to_a_layer_is_found(network: Callable[[], nn.Module]) -> None:
    assert initialised_elsewhere(network(), "head")


def test_code_two_levels_up_is_found_and_named() -> None:
    ((path, found),) = InitializationCode(Outer()).containers("inner.0.head")
    assert (path, found.cls, found.function, found.resets) == ("", Outer, "Outer.__init__ (uniform_)", False)


@pytest.mark.parametrize("network", [Plain, Positions, lambda: nn.Sequential(nn.Linear(3, 3)), lambda: nn.LSTM(3, 3)])
def test_layers_that_initialise_themselves_are_left_to_it(network: Callable[[], nn.Module]) -> None:
    model = network()
    assert not any(initialised_elsewhere(model, path) for path, _ in model.named_modules())


@pytest.mark.parametrize(
    ("network", "path"),
    [
        (lambda: nn.Sequential(nn.MultiheadAttention(8, 2)), "0.out_proj"),
        (lambda: nn.Transformer(8, 2, 1, 1, 8, batch_first=True), "encoder.layers.0.linear1"),
        (ResetsChildren, "lin"),
    ],
)
def test_a_container_that_resets_its_children_says_so(network: Callable[[], nn.Module], path: str) -> None:
    assert [found.resets for _, found in InitializationCode(network()).containers(path)] == [True]


def test_no_layer_of_torchvision_is_taken_for_its_own_wrongly() -> None:
    names = ("resnet18", "mnasnet0_5", "squeezenet1_0", "shufflenet_v2_x0_5", "mobilenet_v3_small")
    wrong, own = [], []
    for name in names:
        with seeded_rng(0):
            first = getattr(torchvision.models, name)(num_classes=4)
            second = getattr(torchvision.models, name)(num_classes=4)
        again = dict(second.named_parameters())
        for path, module in first.named_modules():
            if not any(hasattr(module, reset) for reset in RESETS) or initialised_elsewhere(first, path):
                continue
            for local, parameter in module.named_parameters(recurse=False):
                own.append(name)
                drawn = _reset_copy(module, local)
                if _scale(drawn) > 1.5 * _scale(again[f"{path}.{local}"]) and parameter.numel() > 100:
                    wrong.append(f"{name}: {path}.{local}")
    assert not wrong
    assert set(own) == {"shufflenet_v2_x0_5"}


def _reset_copy(module: nn.Module, local: str) -> Tensor:
    twin = copy.deepcopy(module)
    with seeded_rng(1):
        twin.reset_parameters()
    return getattr(twin, local).detach()


def _scale(values: Tensor) -> float:
    return float(values.detach().abs().mean())
