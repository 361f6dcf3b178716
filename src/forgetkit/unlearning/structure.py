"""A model's structure, from its modules and from one real batch; never from names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import is_parametrized

from forgetkit.contracts import Layer, Scope

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class ParameterOwner:
    """The module that a parameter or buffer belongs to, and its name there."""

    module: nn.Module
    local: str


def owners(model: nn.Module) -> dict[str, ParameterOwner]:
    """The owner of each parameter and buffer by full name; of shared ones, the first."""
    found: dict[str, ParameterOwner] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for local, tensor in own:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"{path}.{local}" if path else local] = ParameterOwner(module, local)
    return found


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters of its own and none of them is trained."""
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)


def kind_of(module: nn.Module) -> Literal["weight", "norm", "other"]:
    """Whether a module normalises, or holds a matrix or kernel of its own, however that is parametrised."""
    if isinstance(module, _NORMS):
        return "norm"
    own = [*module.parameters(recurse=False), *(p for part in parametrizing_modules(module) for p in part.parameters())]
    return "weight" if any(p.ndim >= 2 for p in own) else "other"


def parametrizing_modules(module: nn.Module) -> list[nn.Module]:
    """The modules that compute a parametrised weight of ``module`` (weight_norm, say); none where it has none."""
    return list(module.get_submodule("parametrizations").children()) if is_parametrized(module) else []


def names_in(model: nn.Module, scope: Scope | Literal["norm"]) -> set[str]:
    """The names of the parameters in ``scope``, by what the module that computes with each does and calls it.

    What parametrises a weight (weight_norm's magnitude and direction) is that weight; a shared parameter counts
    as that of the first module that holds it.
    """
    parametrised = {
        p: (module, attribute)
        for module in model.modules()
        if is_parametrized(module)
        for attribute, part in module.get_submodule("parametrizations").named_children()
        for p in part.parameters()
    }
    found = set()
    for name, owner in owners(model).items():
        parameter = getattr(owner.module, owner.local)
        if not isinstance(parameter, nn.Parameter):
            continue
        module, attribute = parametrised.get(parameter, (owner.module, owner.local))
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
    """Modules in the order in which they are entered while the model runs inside this context."""
    order: list[nn.Module] = []

    def entered(module: nn.Module, _: object) -> None:
        order.append(module)

    handles = [module.register_forward_pre_hook(entered) for module in model.modules()]
    try:
        yield order
    finally:
        for handle in handles:
            handle.remove()


def layers_in(model: nn.Module, order: Sequence[nn.Module], buffers: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """The modules that own parameters, in order of execution.

    A module stands where it was first entered. One that is never entered itself (a projection
    that its parent uses directly) stands with the nearest parent that was; without one it does
    not take part and is left out. A shared parameter stands with every module that holds it, under
    its one name. What a parametrised weight is computed from (weight_norm's
    magnitude and direction) belongs to the layer whose weight that is.
    """
    first: dict[nn.Module, int] = {}
    for position, module in enumerate(order):
        first.setdefault(module, position)
    names = {module: path for path, module in model.named_modules()}
    by_path = dict(model.named_modules())
    computed_for = {p: m for m in by_path.values() for part in parametrizing_modules(m) for p in part.modules()}
    named = {id(p): name for name, p in model.named_parameters()}  # a shared one under its first name
    held: dict[nn.Module, tuple[list[str], list[str]]] = {}
    for path, module in by_path.items():
        own = [*module.parameters(recurse=False)]
        local = [f"{path}.{b}" if path else b for b, _ in module.named_buffers(recurse=False)]
        if own or any(name in buffers for name in local):
            holder: nn.Module = computed_for.get(module) or module
            parameters, own_buffers = held.setdefault(holder, ([], []))
            parameters.extend(named[id(p)] for p in own)
            own_buffers.extend(name for name in local if name in buffers)

    def place(module: nn.Module) -> int | None:
        path = names[module]
        while by_path[path] not in first:
            if not path:
                return None
            path = path.rpartition(".")[0]
        return first[by_path[path]]

    placed = [(at, module) for module in held if (at := place(module)) is not None]
    return tuple(
        Layer(
            name=names[module],
            kind=kind_of(module),
            linear=isinstance(module, nn.Linear),
            parameters=tuple(held[module][0]),
            buffers=tuple(held[module][1]),
        )
        for _, module in sorted(placed, key=lambda pair: pair[0])
        if held[module][0] or held[module][1]
    )


def head_of(layers: Sequence[Layer]) -> Layer | None:
    """The head: the fully connected layer that is executed last."""
    return next((layer for layer in reversed(layers) if layer.linear), None)
