"""Ways to initialise a layer that a constructor may take: each is found, and harmless code is not taken for one."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import initial_values
from helpers.initial_values import WIDENERS, Widener, Widening, widener
from helpers.initial_values import widen as put
from torch import Tensor, nn

from forgetkit.unlearning.initialization import InitializationCode


class Base(nn.Module):
    """A container of two layers, whose constructor ends with ``initialise``."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.finish()

    def finish(self) -> None:
        """Initialise."""


def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(4, 4))


def replace_weight(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.randn(4, 4))


def reset_parameters(layer: nn.Module) -> None:
    """It has the name of torch's method, and is none."""
    put(layer)


def imports(self: Any) -> None:
    from helpers.initial_values import widen as other

    other(self.head)


def imports_a_module(self: Any) -> None:
    import helpers.initial_values as other

    other.widen(self.head)


def every_matrix(self: Any) -> None:
    for parameter in self.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def by_name(self: Any, how: str = "xavier_uniform") -> None:
    getattr(nn.init, how + "_")(self.head.weight)


@torch.no_grad()
def in_place(self: Any) -> None:
    self.head.weight *= 3


@torch.no_grad()
def entries(self: Any) -> None:
    self.head.weight[0] = 7


@torch.no_grad()
def all_at_once(self: Any) -> None:
    torch._foreach_mul_(list(self.parameters()), 3.0)


@torch.no_grad()
def as_output(self: Any) -> None:
    torch.randn(4, 4, out=self.head.weight.detach())


def local(self: Any) -> None:
    head = self.head
    head.weight = nn.Parameter(torch.randn(4, 4))


def tie(self: Any) -> None:
    self.head.weight = self.hidden.weight


def another_head(self: Any) -> None:
    head = copy.deepcopy(self.head)
    put(head)
    self.head = head


def nested(self: Any) -> None:
    def deeper(layer: nn.Module) -> None:
        def deepest() -> None:
            put(layer)

        deepest()

    deeper(self.head)


def stored(self: Any) -> None:
    self.initialise = put
    self.initialise(self.head)


def scale(values: Tensor, factor: float) -> None:
    values *= factor


def overwrite(values: Tensor) -> None:
    values[...] = 3


def by_state(self: Any) -> None:
    state = self.state_dict()
    values = state["head.weight"]
    values *= 3


WAYS: dict[str, Callable[[Any], object]] = {
    "under another name": lambda self: put(self.head),
    "through a module": lambda self: initial_values.widen(self.head),
    "imported inside": imports,
    "module imported inside": imports_a_module,
    "from a dict of lists": lambda self: WIDENERS["linear"][0](self.head),
    "an object that is called": lambda self: widener(self.head),
    "a method of a new object": lambda self: Widener().everything(self),
    "a comprehension": lambda self: [put(layer) for layer in self.children()],
    "every matrix": every_matrix,
    "a name put together": by_name,
    "in place by getattr": lambda self: getattr(self.head.weight.detach(), "fill_")(3),  # noqa: B009
    "a methodcaller": lambda self: operator.methodcaller("fill_", 3)(self.head.weight.detach()),
    "an operator": in_place,
    "entries": entries,
    "data entries": lambda self: self.head.weight.data.__setitem__(0, 1.0),
    "all at once": all_at_once,
    "an output": as_output,
    "a vector": lambda self: nn.utils.vector_to_parameters(torch.randn(40), self.parameters()),
    "a state": lambda self: self.load_state_dict(self.state_dict()),
    "a new parameter": local,
    "a new parameter by a helper": lambda self: replace_weight(self.head),
    "a new parameter by setattr": lambda self: setattr(self.head, "weight", weight()),
    "a new parameter by its dict": lambda self: self.head._parameters.update(weight=weight()),
    "a registered parameter": lambda self: self.head.register_parameter("weight", weight()),
    "a tie": tie,
    "a copy": another_head,
    "nested functions": nested,
    "an attribute": stored,
    "an argument scaled by a helper": lambda self: scale(self.head.weight.detach(), 3),
    "an argument overwritten by a helper": lambda self: overwrite(self.head.weight.detach()),
    "tensors of the state": by_state,
    "an operator's function": lambda self: operator.imul(self.head.weight.detach(), 3),
    "an operator's method": lambda self: self.head.weight.detach().__imul__(3),
    "shared memory": lambda self: np.copyto(self.head.weight.detach().numpy(), 3),
    "_apply": lambda self: self.head._apply(lambda values: values * 3),
    "code in a text": lambda self: exec("self.head.weight.detach().mul_(3)", {"self": self}),
    "an attribute set by the base class": lambda self: nn.Module.__setattr__(self.head, "weight", weight()),
    "a helper called reset_parameters": lambda self: reset_parameters(self.head),
}


def is_found(model: nn.Module, path: str = "head") -> bool:
    code = InitializationCode(model)
    return any(not found.resets for _, found in code.containers(path)) or code.own(path, "weight") is not None


@pytest.mark.parametrize("way", WAYS)
def test_it_is_found(way: str) -> None:
    assert is_found(type("Way", (Base,), {"finish": WAYS[way]})())


class ByMixin(Widening, Base):
    """The mixin's constructor runs after that of the other base."""


class ByProperty(Base):
    @property
    def ready(self) -> bool:
        put(self.head)
        return True

    def finish(self) -> None:
        assert self.ready


class BySetter(Base):
    def _set(self, value: int) -> None:
        put(self.head)

    mode = property(lambda self: 1, _set)

    def finish(self) -> None:
        self.mode = 3


def finished(constructor: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(constructor)
    def wrapper(self: Any) -> None:
        constructor(self)
        put(self.head)

    return wrapper


class ByDecorator(Base):
    @finished
    def __init__(self) -> None:
        super().__init__()


class ByStatic(Base):
    how = staticmethod(replace_weight)

    def finish(self) -> None:
        self.how(self.head)


class ByClassMethod(Base):
    @classmethod
    def widen(cls, layer: nn.Module) -> None:
        put(layer)

    def finish(self) -> None:
        type(self).widen(self.head)


class ByPartial(Base):
    def _widen(self, layer: nn.Module) -> None:
        put(layer)

    widen = functools.partialmethod(_widen)

    def finish(self) -> None:
        self.widen(self.head)


class ByArgument(Base):
    def __init__(self, initialise: Callable[[nn.Module], None]) -> None:
        super().__init__()
        initialise(self.head)


class OwnWeight(nn.Linear):
    """Its own constructor replaces what ``reset_parameters`` drew."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.weight = nn.Parameter(torch.ones(4, 4))


class BySettingAttributes(Base):
    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, nn.Linear):
            put(value)
        super().__setattr__(name, value)


class ByRegistering(Base):
    def register_module(self, name: str, module: nn.Module | None) -> None:
        if module is not None:
            put(module)
        super().register_module(name, module)

    def finish(self) -> None:
        self.register_module("last", nn.Linear(4, 4))


class ResetWithArgument(nn.Linear):
    """Its own constructor hands a scale to ``reset_parameters``, which draws in another one without."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.reset_parameters(0.01)

    def reset_parameters(self, std: float = 1.0) -> None:
        nn.init.normal_(self.weight, std=std)


class NeverReset(nn.Module):
    """It has ``reset_parameters``, and its constructor does not call it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


@pytest.mark.parametrize(
    "make",
    [
        *(ByMixin, ByProperty, BySetter, ByDecorator, ByStatic, ByClassMethod, ByPartial, BySettingAttributes),
        *(ByRegistering, lambda: ByArgument(put)),
    ],
)
def test_it_is_found_in_a_class(make: Callable[[], nn.Module]) -> None:
    assert is_found(make())


@pytest.mark.parametrize("layer", [OwnWeight, ResetWithArgument, NeverReset])
def test_a_layer_that_begins_otherwise_is_not_trusted(layer: Callable[[], nn.Module]) -> None:
    assert is_found(nn.Sequential(layer()), "0")


class Finishing(Base):
    def zero_last(self) -> None:
        put(self.head)


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = Finishing()
        for module in self.children():
            module.zero_last()


def test_a_parent_that_calls_a_method_of_its_child_is_found() -> None:
    assert is_found(Parent(), "child.head")


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        norm = norm or nn.BatchNorm2d
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), norm(outputs)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.norm(self.conv(inputs))
        outputs += inputs
        return self.activation(outputs)


class Residual(nn.Module):
    """A network by hand that leaves its layers as they make themselves."""

    def __init__(self, width: int = 4, layers: int = 2, layer: Callable[..., nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.width, self.sizes = width, {}
        self.sizes["last"] = width
        self.blocks = nn.Sequential(*[self._block(number) for number in range(layers)])
        self.head = layer(width, 3)
        self.register_buffer("positions", torch.arange(width))
        self.count = sum(p.numel() for p in self.parameters())
        self.head.requires_grad_(True)

    def _block(self, number: int) -> Block:
        return Block(self.width, self.width)


def test_a_network_that_initialises_nothing_is_left_alone() -> None:
    model = Residual()
    code = InitializationCode(model)
    for path, module in model.named_modules():
        assert code.containers(path) == []
        assert not any(code.own(path, name) for name in module._parameters)
