"""Groups of units that a method may reset, and what a reset writes."""

from __future__ import annotations

from typing import Literal

from forgetkit.contracts import ReinitContext, UnitGroup, Writes
from forgetkit.errors import NoMatchError

Coupled = Literal["skip", "include"]
"""Whether to skip units that several layers write, such as the channels of a residual stream."""

RESETTING: frozenset[Writes] = frozenset({"weights", "biases", "norm", "stats"})
"""The kinds of tensors that the reset of a unit writes."""


def open_groups(context: ReinitContext, coupled: Coupled, name: str) -> tuple[UnitGroup, ...]:
    """The groups whose units ``name`` may reset; raise ``NoMatchError`` without any."""
    groups = tuple(group for group in context.units if coupled == "include" or not group.coupled)
    if not groups:
        remedy = (
            "all of them are coupled by residual additions: write coupled=include"
            if context.units
            else "it needs hidden layers that protect= leaves free, and layer normalisation or attention between them "
            "mixes what they compute"
        )
        raise NoMatchError(f"{name}: this network has no units that can be reset alone; {remedy}")
    return groups
