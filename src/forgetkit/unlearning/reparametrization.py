"""Weights that a module computes from other tensors: parametrised, normalised by a hook, or pruned.

Their fresh values come from the module as it would be without: :func:`strip` turns a copy into it, and what is drawn
there says what the tensors hold from which the weight is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from forgetkit.unlearning.parametrized_buffers import refine_estimates

_LIST = "parametrizations"

REPARAMETRIZING_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
"""Hooks that compute a weight before each forward pass."""


@dataclass(frozen=True)
class ComputedWeight:
    """A tensor that a module computes from others.

    Attributes:
        name: The attribute, such as ``"weight"``.
        sources: The tensors that it is computed from, by their names in the module, with the buffers that go with them.
        invert: Returns what the sources hold if the weight is to have a value.
    """

    name: str
    sources: tuple[str, ...]
    invert: Callable[[Tensor], tuple[Tensor, ...]]


def computed_weights(module: nn.Module) -> Iterator[ComputedWeight]:
    """The tensors that ``module`` itself computes."""
    if parametrize.is_parametrized(module):
        for name, parts in module.get_submodule(_LIST).named_children():
            yield ComputedWeight(name, tuple(f"{_LIST}.{name}.{local}" for local in _tensors(parts)), _inverse(parts))
    for hook in _hooks(module):
        if isinstance(hook, WeightNorm):
            yield ComputedWeight(hook.name, (f"{hook.name}_g", f"{hook.name}_v"), _norm_and_direction(hook.dim))
        else:
            name = hook.name if isinstance(hook, SpectralNorm) else hook._tensor_name
            yield ComputedWeight(name, (f"{name}_orig",), lambda weight: (weight,))


def hook_results(module: nn.Module) -> Iterator[Tensor]:
    """The tensors that hooks hang on modules: they have a graph, and cannot be copied as they are."""
    for part in module.modules():
        yield from (value for value in vars(part).values() if isinstance(value, Tensor) and not value.is_leaf)


def strip(root: nn.Module) -> dict[str, ComputedWeight]:
    """Make each computed weight in a copy of a module a parameter of its own, filled with NaN.

    Returns:
        What was computed, by the name of the parameter.
    """
    found = {}
    for path, module in list(root.named_modules()):
        module.eval()  # reading a spectral norm's weight iterates in train mode
        computed = [(weight, getattr(module, weight.name)) for weight in computed_weights(module)]
        if parametrize.is_parametrized(module):
            # torch's remove_parametrizations would take the weight from the class, which the original has too.
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module._modules[_LIST]
        for number, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, REPARAMETRIZING_HOOKS):
                del module._forward_pre_hooks[number]
        for weight, value in computed:
            vars(module).pop(weight.name, None)
            for source in weight.sources:
                module._parameters.pop(source, None)
            module.register_parameter(weight.name, nn.Parameter(torch.full_like(value, torch.nan), False))
            found[f"{path}.{weight.name}" if path else weight.name] = weight
    return found


def sources_of(name: str, weight: ComputedWeight, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors from which the weight with the full ``name`` is computed, if it is to have a value."""
    prefix = name.removesuffix(weight.name)
    yield from zip((prefix + source for source in weight.sources), weight.invert(value), strict=True)


def pruning_masks(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks of :mod:`torch.nn.utils.prune` by the full name of the parameter: 0 = pruned."""
    return {
        f"{path}.{name}_orig" if path else f"{name}_orig": getattr(module, f"{name}_mask")
        for path, module in model.named_modules()
        for hook in _hooks(module)
        if isinstance(hook, prune.BasePruningMethod)
        for name in [hook._tensor_name]
    }


def _tensors(parts: nn.Module) -> dict[str, Tensor]:
    """The tensors that a list of parametrisations begins with, and the buffers of the parametrisations."""
    return {**dict(parts.named_parameters(recurse=False)), **dict(parts.named_buffers())}


def _inverse(parts: nn.Module) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What parametrising anew does to a weight, and to the buffers that follow it."""

    def invert(weight: Tensor) -> tuple[Tensor, ...]:
        new = parametrize.ParametrizationList([*parts.children()], weight.clone(), unsafe=True)
        refine_estimates(new)
        return tuple(_tensors(new).values())

    return invert


def _norm_and_direction(dim: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda weight: (torch.norm_except_dim(weight, 2, dim), weight)


def _hooks(module: nn.Module) -> Iterator[WeightNorm | SpectralNorm | prune.BasePruningMethod]:
    yield from (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, REPARAMETRIZING_HOOKS))
