"""A model's structure, from its modules and one real batch; never from names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import is_parametrized

from forgetkit.contracts import Layer, Scope

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class ParameterOwner:
    """The module that holds a parameter or buffer, and the tensor's name there."""

    module: nn.Module
    local: str


def owners(model: nn.Module) -> dict[str, ParameterOwner]:
    """Return the owner of each parameter and buffer by full name; of shared ones, the first."""
    named = (*model.named_parameters(), *model.named_buffers())
    split = {name: name.rpartition(".") for name, _ in named}
    return {name: ParameterOwner(model.get_submodule(path), local) for name, (path, _, local) in split.items()}


def aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the other names of each tensor that has several, by its first one."""
    names: dict[int, list[str]] = {}
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    return {first: tuple(others) for first, *others in names.values() if others}


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters of its own and none of them is trained."""
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)


def kind_of(module: nn.Module) -> Literal["weight", "norm", "other"]:
    """Whether a module normalises, or holds a matrix or kernel of its own (parametrised or not)."""
    if isinstance(module, _NORMS):
        return "norm"
    own = [*module.parameters(recurse=False), *(p for _, p in _parametrising(module))]
    return "weight" if any(p.ndim >= 2 for p in own) else "other"


def _parametrising(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that a parametrised module computes its tensors from, each with that tensor's name."""
    if not is_parametrized(module):
        return []
    parts = module.get_submodule("parametrizations").named_children()
    return [(attribute, p) for attribute, part in parts for p in part.parameters()]


def names_in(model: nn.Module, scope: Scope | Literal["norm"]) -> set[str]:
    """Return the names of the parameters in ``scope``, by the module that uses each and its attribute name there.

    The parameters that parametrise a weight (weight_norm's magnitude and direction) count as that weight; a shared
    parameter counts as that of the first module that holds it.
    """
    parametrised = {p: (module, name) for module in model.modules() for name, p in _parametrising(module)}
    found = set()
    for name, parameter in model.named_parameters():
        path, _, local = name.rpartition(".")
        module, attribute = parametrised.get(parameter) or (model.get_submodule(path), local)
        kind, weight = kind_of(module), "weight" in attribute  # torch's own word: weight, in_proj_weight, weight_ih_l0
        inside = {
            "all": True,
            "weights": weight,
            "conv-linear": weight and kind == "weight" and parameter.ndim >= 2,
            "norm": kind == "norm",
        }
        if inside[scope]:
            found.add(name)
    return found


@contextmanager
def execution_order(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield a list that receives each module when it is entered while the model runs."""
    order: list[nn.Module] = []
    with ExitStack() as hooks:
        for module in model.modules():
            hooks.enter_context(module.register_forward_pre_hook(lambda module, _: order.append(module)))
        yield order


def layers_in(model: nn.Module, order: Sequence[nn.Module], buffers: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """Return the modules that own parameters, in order of execution, with those of their buffers in ``buffers``.

    A module counts from when it is first entered. One that is never entered itself (a projection that its parent uses
    directly) counts from its nearest entered parent; without one it is left out. A shared parameter appears in every
    module that holds it, under its first name. The parameters of a parametrisation belong to the layer whose weight
    they compute.
    """
    first: dict[nn.Module, int] = {}
    for count, module in enumerate(order):
        first.setdefault(module, count)
    modules = dict(model.named_modules())
    names = {module: path for path, module in modules.items()}
    first_names = {id(p): name for name, p in model.named_parameters()}
    computed_for: dict[nn.Module, nn.Module] = {
        part: module
        for module in modules.values()
        if is_parametrized(module)
        for part in module.get_submodule("parametrizations").modules()
    }
    held: dict[nn.Module, tuple[list[str], list[str]]] = {}
    for path, module in modules.items():
        own = [first_names[id(p)] for p in module.parameters(recurse=False)]
        local = [f"{path}.{b}" if path else b for b, _ in module.named_buffers(recurse=False)]
        open_buffers = [name for name in local if name in buffers]
        if own or open_buffers:
            layer_parameters, layer_buffers = held.setdefault(computed_for.get(module) or module, ([], []))
            layer_parameters.extend(own)
            layer_buffers.extend(open_buffers)

    def position_of(path: str) -> int | None:
        if modules[path] in first:
            return first[modules[path]]
        return position_of(path.rpartition(".")[0]) if path else None

    positions = {module: position for module in held if (position := position_of(names[module])) is not None}
    return tuple(
        Layer(
            name=names[module],
            kind=kind_of(module),
            linear=isinstance(module, nn.Linear),
            parameters=tuple(held[module][0]),
            buffers=tuple(held[module][1]),
        )
        for module in sorted(positions, key=positions.__getitem__)
    )
