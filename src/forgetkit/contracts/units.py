"""Units: neurons and channels, with every place in the network that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UnitSlice:
    """Where a group's units sit in one parameter or buffer.

    ``dim`` is the dimension that counts them. The first unit begins at entry ``start`` of it (layers that read a
    concatenation), and each has ``repeat`` entries side by side (layers that read flattened maps).
    """

    name: str
    dim: int
    start: int = 0
    repeat: int = 1

    def per_unit(self, tensor: Tensor, size: int) -> Tensor:
        """Each unit's entries in ``tensor``, ``(size, entries)``, to be read: a write may or may not reach it."""
        own = tensor.movedim(self.dim, 0)[self.start : self.start + size * self.repeat]
        return own.reshape(size, -1)

    def mask(self, tensor: Tensor, chosen: Tensor) -> Tensor:
        """A bool tensor of ``tensor``'s shape, True at the entries of the ``chosen`` units, a bool ``(size,)``."""
        along = chosen.new_zeros(tensor.shape[self.dim])
        along[self.start : self.start + len(chosen) * self.repeat] = chosen.repeat_interleave(self.repeat)
        shape = [1] * tensor.ndim
        shape[self.dim] = -1
        return along.to(tensor.device).view(shape).expand(tensor.shape)


@dataclass(frozen=True)
class UnitGroup:
    """Units that share their places in the network and are handled together: a layer's outputs, or a residual stream.

    ``name`` is that of the first layer that computes them, ``size`` how many there are. ``incoming`` are the weights
    that compute them (rows), ``bias`` their biases, ``norm`` the scales and shifts of the normalisation that acts on
    them, ``stats`` its running statistics, ``outgoing`` the weights that read them (columns), in the order of
    ``readers``, the modules that own those. ``coupled`` is true where several layers write into the same units, as
    the blocks of a residual network do.
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
        """Every share in a parameter."""
        return (*self.incoming, *self.bias, *self.norm, *self.outgoing)
