"""Reset units: reinitialise what computes them, and silence what reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from forgetkit.contracts import Change, UnitGroup
from forgetkit.errors import OptionError


def without_protected(
    groups: Sequence[UnitGroup],
    chosen: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    protected: Mapping[str, Tensor],
) -> Mapping[str, Tensor]:
    """Leave out the chosen units of which an entry is protected: a unit is reset as a whole or not at all."""
    if not protected:
        return chosen
    free = dict(chosen)
    for group in groups:
        parts = (*group.incoming, *group.norm, *group.stats, *group.bias, *group.outgoing)
        touched = [part for part in parts if part.name in protected]
        if not touched or not isinstance(chosen.get(group.name), Tensor):
            continue
        keep = chosen[group.name].clone()
        for unit in keep.nonzero().flatten().tolist():
            alone = torch.zeros_like(keep).index_fill_(0, torch.tensor([unit], device=keep.device), True)
            keep[unit] = not any(
                bool((part.mask(tensors[part.name], alone) & protected[part.name].to(tensors[part.name].device)).any())
                for part in touched
            )
        free[group.name] = keep
    return free


def reset_changes(
    groups: Sequence[UnitGroup],
    chosen: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    fresh: Callable[[str], Tensor],
) -> Iterator[Change]:
    """Yield one change per tensor that reinitialises and silences the chosen units.

    Their incoming weights, normalisation and statistics become fresh, their biases and outgoing weights zero. An entry
    that is incoming to one unit and outgoing from another becomes zero.

    Args:
        groups: The groups of units.
        chosen: A bool ``(size,)`` by the group's name, True = reset.
        tensors: The parameters and buffers by name.
        fresh: Returns a fresh value by name.
    """
    by_name = {group.name: group for group in groups}
    unknown = set(chosen) - set(by_name)
    if unknown:
        raise OptionError(f"there is no group of units called '{min(unknown)}'")
    renewed: dict[str, Tensor] = {}
    silenced: dict[str, Tensor] = {}
    for name, units in chosen.items():
        group = by_name[name]
        if not isinstance(units, Tensor) or units.dtype != torch.bool or tuple(units.shape) != (group.size,):
            raise OptionError(f"choose the units of '{name}' by a bool tensor of shape ({group.size},)")
        if not bool(units.any()):
            continue
        slices = [(slice_, renewed) for slice_ in (*group.incoming, *group.norm, *group.stats)]
        slices += [(slice_, silenced) for slice_ in (*group.bias, *group.outgoing)]
        for slice_, masks in slices:
            mask = slice_.mask(tensors[slice_.name], units)
            masks[slice_.name] = masks[slice_.name] | mask if slice_.name in masks else mask
    for name in dict.fromkeys((*renewed, *silenced)):
        if name not in renewed:
            yield Change(name, silenced[name], torch.zeros_like(tensors[name]))
        elif name not in silenced:
            yield Change(name, renewed[name], fresh(name))
        else:
            value = torch.where(silenced[name], torch.zeros_like(tensors[name]), fresh(name))
            yield Change(name, renewed[name] | silenced[name], value)
