"""Scores that a whole unit shares."""

from __future__ import annotations

from torch import Tensor

from forgetkit.contracts import UnitSlice


def assign(part: UnitSlice, tensor: Tensor, values: Tensor) -> None:
    """Write one value per unit to all of the unit's entries in ``tensor``.

    Args:
        part: Where the units are in the tensor.
        tensor: The scores of a parameter, written in place.
        values: A value for each unit, ``(size,)``.
    """
    own = tensor.movedim(part.dim, 0)[part.start : part.start + len(values) * part.repeat]
    own[:] = values.repeat_interleave(part.repeat).view(-1, *[1] * (own.ndim - 1))
