"""Checks of large tensors that need little memory besides the tensor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = 2**16
"""Entries that are copied at a time on the CPU."""
ROWS = 16
"""Pieces that another device takes at once."""


def order_in_memory(tensor: Tensor) -> tuple[int, ...]:
    """Return the dimensions by descending stride: permuted so, a dense tensor is contiguous."""
    strides = tensor.stride()
    return tuple(sorted(range(len(strides)), key=lambda dim: -strides[dim]))


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor of floats holds neither NaN nor infinity."""
    return not tensor.numel() or bool(torch.stack(_extremes(tensor)).isfinite().all())


def bounds(tensor: Tensor) -> tuple[float, float]:
    """Return the lowest and the highest entry of a tensor that is not empty; both are NaN if one entry is."""
    lowest, highest = torch.stack(_extremes(tensor)).tolist()
    return lowest, highest


def is_constant(tensor: Tensor) -> bool:
    """Whether all entries of a tensor are equal."""
    return not tensor.numel() or len(set(bounds(_real(tensor)))) == 1


def any_nan(tensor: Tensor) -> bool:
    """Whether a tensor holds NaN."""
    tensor = _real(tensor)
    return tensor.is_floating_point() and bool(tensor.numel()) and bool(_extremes(tensor)[0].isnan())


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor


def _extremes(tensor: Tensor) -> tuple[Tensor, Tensor]:
    extremes = [torch.stack(torch.aminmax(part)) for part in _readable(tensor.detach())]
    lowest, highest = torch.aminmax(torch.cat(extremes))
    return lowest, highest


def _readable(tensor: Tensor) -> Iterator[Tensor]:
    """Yield all entries in parts; those that must be copied to be compared come a few at a time."""
    entries = tensor.permute(order_in_memory(tensor))  # any other order would be copied
    few = PIECE if tensor.device.type == "cpu" else ROWS * PIECE
    for part in _dense(entries, few):
        if part.element_size() == 1:  # torch does not compare 8-bit floats
            yield from (piece.float() for piece in part.flatten().split(few))
        else:
            yield part


def _dense(entries: Tensor, few: int) -> Iterator[Tensor]:
    """Yield parts without gaps, or of at most ``few`` entries."""
    if entries.is_contiguous() or entries.numel() <= few:
        yield entries
        return
    rows = few * len(entries) // entries.numel()
    for part in entries.split(rows) if rows else entries:
        yield from _dense(part, few)
