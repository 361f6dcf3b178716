"""Write values in place under a mask, and keep what they replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from forgetkit.unlearning.masks import pack_mask, unpack_mask
from forgetkit.unlearning.tensor_checks import order_in_memory
from forgetkit.unlearning.tensor_parts import local_like, local_of

Undo = list[Callable[[], object]]
_PIECE = 2**20


def write(tensor: Tensor, mask: Tensor | None, value: Tensor | None, undo: Undo) -> tuple[int, int]:
    """Write ``value`` (None: zero) under ``mask``; return how many entries were written and how many changed.

    Positions are computed in memory order, a piece at a time: an index takes eight bytes. The old entries of each piece
    are kept before it is written. Of a tensor in parts, this process's part is written.
    """
    mask, value, tensor = local_like(mask, tensor), local_like(value, tensor), local_of(tensor)
    flat = _FlatView(tensor)
    if mask is None:
        old = tensor.clone()
        undo.append(partial(tensor.copy_, old))
        tensor.copy_(torch.zeros_like(tensor) if value is None else value)
        pairs = zip(flat.of(tensor).split(_PIECE), flat.of(old).split(_PIECE), strict=True)
        return tensor.numel(), sum(_count_differing(new, before) for new, before in pairs)
    old_pieces, written, changed = list[tuple[Tensor, Tensor]](), 0, 0
    undo.append(lambda: _restore_pieces(flat, old_pieces))
    with flat.writable() as entries:
        values = None if value is None else flat.of(value).split(_PIECE)
        for at, (piece, where) in enumerate(zip(entries.split(_PIECE), flat.of(mask).split(_PIECE), strict=True)):
            positions = _true_positions(where)
            old = piece[positions]
            new = torch.zeros_like(old) if values is None else values[at].to(piece.device)[positions].to(piece)
            old_pieces.append((pack_mask(where), old))
            written, changed = written + len(positions), changed + _count_differing(new, old)
            piece.index_copy_(0, positions, new)
    return written, changed


def _restore_pieces(flat: _FlatView, old_pieces: list[tuple[Tensor, Tensor]]) -> None:
    """Undo the writes to the first pieces, of each of which there are the packed mask and the old entries."""
    with flat.writable() as entries:
        for piece, (bits, old) in zip(entries.split(_PIECE), old_pieces, strict=False):
            piece.index_copy_(0, _true_positions(unpack_mask(bits, piece.shape)), old)


def _count_differing(new: Tensor, old: Tensor) -> int:
    return int((new != old).sum())


def _true_positions(mask: Tensor) -> Tensor:
    """Return the positions at which a flat mask is true; numpy is twice as fast on the CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().flatten()


class _FlatView:
    """A tensor's entries in one dimension, in memory order."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._order = order_in_memory(tensor)

    def of(self, other: Tensor) -> Tensor:
        """Return the entries of a tensor of the same shape, in the same order."""
        return other.detach().permute(self._order).reshape(-1)

    @contextmanager
    def writable(self) -> Iterator[Tensor]:
        """Yield a view of the tensor's own entries, or, if it has gaps, a copy that is written back on leaving."""
        permuted = self._tensor.detach().permute(self._order)
        entries = permuted.reshape(-1)
        yield entries
        if not permuted.is_contiguous():
            permuted.copy_(entries.view(permuted.shape))
