"""What no reset may touch: what the caller protects, and entries that are pruned away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from forgetkit.errors import OptionError
from forgetkit.unlearning.reparametrization import pruning_masks
from forgetkit.unlearning.tensor_parts import is_distributed

Protect = Iterable[str] | Mapping[str, Tensor]
"""Names of parameters, buffers or modules; or boolean masks by the name of a parameter or buffer, True = protected."""


@dataclass(frozen=True, eq=False)
class Protection:
    """What is neither scored nor reset.

    Attributes:
        names: Parameters and buffers of which nothing may change.
        masks: Boolean masks by name, True = the entry may not change.
    """

    names: frozenset[str] = frozenset()
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, protect: Protect | None) -> Protection:
        """Read ``protect=``.

        Raises:
            OptionError: If a name or a mask fits nothing in the model.
        """
        if protect is None:
            return cls()
        if isinstance(protect, str) or not isinstance(protect, Iterable):
            raise OptionError(f"protect= takes a list of names, or masks by name, not {type(protect).__name__}")
        masks = protect if isinstance(protect, Mapping) else {}
        kind, known = type(model).__name__, _tensors_by_name(model)
        names: set[str] = set()
        for name in protect:
            if not isinstance(name, str):
                raise OptionError(
                    f"protect= takes names, not {type(name).__name__}: those that {kind}.named_parameters() or "
                    "named_modules() gives"
                )
            if name not in known or (name in masks and len(known[name]) != 1):
                what = "parameter or buffer" if masks else "parameter, buffer or module"
                source = "named_parameters()" if masks else "named_parameters() or named_modules()"
                raise OptionError(f"protect=: {kind} has no {what} called '{name}'; take names of {source}")
            if name not in masks:
                names.update(known[name])
        return cls(frozenset(names), dict(_checked(masks, known)))

    @property
    def touched(self) -> frozenset[str]:
        """The names of all tensors of which something may not change."""
        return self.names | self.masks.keys()

    def entries(self, model: nn.Module) -> dict[str, Tensor]:
        """Return masks of the entries that may not change, those that are pruned by now included."""
        found = {name: mask == 0 for name, mask in pruning_masks(model).items()}
        for name, mask in self.masks.items():
            found[name] = mask | found[name].to(mask.device) if name in found else mask
        return found


NO_PROTECTION = Protection()


def require_whole(model: nn.Module, protection: Protection) -> None:
    """Raise ``OptionError`` if a mask is of a tensor that lies in parts: masks cannot be cut."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in protection.entries(model):
        if is_distributed(tensors[name]):
            raise OptionError(
                f"'{name}' lies in parts in several processes (DTensor), and masks of protected or pruned entries "
                "cannot be cut: protect whole parameters by name"
            )


def _tensors_by_name(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The tensors that a name stands for, by their first names: a parameter's or buffer's own, or those of a module."""
    first = {id(tensor): name for name, tensor in reversed([*model.named_parameters(), *model.named_buffers()])}
    every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    found = {name: {first[id(tensor)]: tensor} for name, tensor in every}
    for path, module in model.named_modules(remove_duplicate=False):
        inside = [*module.parameters(), *module.buffers()]
        found.setdefault(path, {first[id(tensor)]: tensor for tensor in inside})
    return found


def _checked(masks: Mapping[str, object], known: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for given, mask in masks.items():
        ((name, tensor),) = known[given].items()
        shape = tuple(tensor.shape)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise OptionError(f"protect=: the mask for '{given}' is not a bool tensor of shape {shape}")
        yield name, mask.detach().clone()
