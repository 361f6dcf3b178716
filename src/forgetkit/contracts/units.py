"""Units: neurons and channels, with the entries of all parameters and buffers that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UnitSlice:
    """The entries of one parameter or buffer that belong to the units of a group.

    Attributes:
        name: The full name of the parameter or buffer.
        dim: The dimension along which the units lie.
        start: The first unit's index in ``dim``; above 0 in layers that read a concatenation.
        repeat: Adjacent indices of each unit; above 1 in layers that read flattened maps.
    """

    name: str
    dim: int
    start: int = 0
    repeat: int = 1

    def per_unit(self, tensor: Tensor, size: int) -> Tensor:
        """Gather the entries of each unit.

        Args:
            tensor: The parameter or buffer, or a tensor of its shape.
            size: The number of units in the group.

        Returns:
            ``(size, entries)``. Do not write to it: it may be a view or a copy.
        """
        own = tensor.movedim(self.dim, 0)[self.start : self.start + size * self.repeat]
        return own.reshape(size, -1)

    def mask(self, tensor: Tensor, units: Tensor) -> Tensor:
        """Mark the entries of some units.

        Args:
            tensor: The parameter or buffer, or a tensor of its shape.
            units: A bool tensor ``(size,)``, True = mark the unit.

        Returns:
            A bool tensor of the shape of ``tensor``, on its device.
        """
        along = units.new_zeros(tensor.shape[self.dim])
        along[self.start : self.start + len(units) * self.repeat] = units.repeat_interleave(self.repeat)
        shape = [1] * tensor.ndim
        shape[self.dim] = -1
        return along.to(tensor.device).view(shape).expand(tensor.shape)


@dataclass(frozen=True)
class UnitGroup:
    """Units with the same entries in the same tensors: the outputs of a layer, or a residual stream.

    Attributes:
        name: The first layer that computes the units.
        size: The number of units.
        incoming: The weights that compute them (rows).
        bias: Their biases.
        norm: Scales and shifts of their normalisation.
        stats: Running statistics of their normalisation.
        outgoing: The weights that read them (columns), in the order of ``readers``.
        readers: The modules that own ``outgoing``.
        coupled: Whether several layers write to the same units, as the blocks of a residual network do.
    """

    name: str
    size: int
    incoming: tuple[UnitSlice, ...]
    bias: tuple[UnitSlice, ...]
    norm: tuple[UnitSlice, ...]
    stats: tuple[UnitSlice, ...]
    outgoing: tuple[UnitSlice, ...]
    readers: tuple[str, ...]
    coupled: bool

    @property
    def parameters(self) -> tuple[UnitSlice, ...]:
        """The slices of parameters: all except ``stats``."""
        return (*self.incoming, *self.bias, *self.norm, *self.outgoing)
