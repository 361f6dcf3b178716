"""Weights that are computed from other tensors: parametrised, normalised by a hook, or pruned.

Their fresh values are drawn through the layer as it is without: the layer's ``reset_parameters`` draws the weight, and
the parametrisation says which tensors give it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm, weight_norm

REPARAMETRIZING_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
"""Hooks that compute a weight before each forward pass."""


def reparametrized(modules: Mapping[str, nn.Module], path: str) -> bool:
    """Whether the module at ``path`` holds the tensors from which another module's weight is computed."""
    outer, found, _ = path.partition(".parametrizations.")
    return bool(found) and outer in modules and parametrize.is_parametrized(modules[outer])


def computed_tensors(module: nn.Module) -> Iterator[Tensor]:
    """The tensors that hooks hang on modules: they have a graph, and cannot be copied as they are."""
    for part in module.modules():
        yield from (value for value in vars(part).values() if isinstance(value, Tensor) and not value.is_leaf)


def pruning_masks(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks of :mod:`torch.nn.utils.prune` by the full name of the parameter: 0 = pruned."""
    found = {}
    for path, module in model.named_modules():
        for hook in _hooks(module):
            if isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
                found[f"{path}.{name}_orig" if path else f"{name}_orig"] = getattr(module, f"{name}_mask")
    return found


def reset_reparametrized(module: nn.Module, reset: Callable[[nn.Module], None]) -> None:
    """Reset a module in place; tensors from which a weight is computed get values that give the weight drawn."""
    if not parametrize.is_parametrized(module) and not _hooks(module):
        reset(module)
        return
    plain = copy.deepcopy(module)
    computed = [*getattr(module, "parametrizations", {})]
    for name in computed:
        parametrize.remove_parametrizations(plain, name, leave_parametrized=True)
    hooks = _hooks(plain)
    for hook in hooks:
        if isinstance(hook, WeightNorm):
            remove_weight_norm(plain, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(plain, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(plain, hook._tensor_name)
    reset(plain)
    for name in computed:
        setattr(module, name, getattr(plain, name))
    for hook in hooks:
        if isinstance(hook, WeightNorm):
            weight_norm(plain, hook.name, hook.dim)
        elif isinstance(hook, SpectralNorm):
            getattr(module, f"{hook.name}_orig").copy_(getattr(plain, hook.name))
        elif isinstance(hook, prune.BasePruningMethod):
            getattr(module, f"{hook._tensor_name}_orig").copy_(getattr(plain, hook._tensor_name))
    for name, parameter in plain.named_parameters(recurse=False):
        if name in module._parameters:
            module.get_parameter(name).copy_(parameter)


def _hooks(module: nn.Module) -> list[object]:
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, REPARAMETRIZING_HOOKS)]
