"""Which groups of units a method may reset, and what resetting a unit touches."""

from __future__ import annotations

from typing import Literal

from forgetkit.contracts import ReinitContext, UnitGroup, Writes
from forgetkit.errors import NoMatchError

Coupled = Literal["skip", "include"]
"""What becomes of units that several layers write into, the channels of a residual stream."""

RESETTING: frozenset[Writes] = frozenset({"weights", "biases", "norm", "stats"})
"""What a unit's reset writes to."""


def open_groups(context: ReinitContext, coupled: Coupled, who: str) -> tuple[UnitGroup, ...]:
    """The groups whose units ``who`` may reset; ``NoMatchError`` where there is none."""
    groups = tuple(group for group in context.units if coupled == "include" or not group.coupled)
    if not groups:
        remedy = (
            "all of them are coupled by residual additions: write coupled=include"
            if context.units
            else "it needs hidden layers, and layer normalisation or attention between them mixes what they compute"
        )
        raise NoMatchError(f"{who}: this network has no units that could be reset by themselves; {remedy}")
    return groups
