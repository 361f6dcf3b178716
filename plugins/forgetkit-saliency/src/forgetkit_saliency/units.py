"""Scores that a whole unit shares."""

from __future__ import annotations

from torch import Tensor

from forgetkit.contracts import UnitSlice


def assign(share: UnitSlice, tensor: Tensor, values: Tensor) -> None:
    """Write one value per unit to all of the unit's entries in ``tensor``.

    Args:
        share: Where the units sit in the tensor.
        tensor: The scores of a parameter, written in place.
        values: A value for each unit, ``(size,)``.
    """
    own = tensor.movedim(share.dim, 0)[share.start : share.start + len(values) * share.repeat]
    own[:] = values.repeat_interleave(share.repeat).view(-1, *[1] * (own.ndim - 1))
