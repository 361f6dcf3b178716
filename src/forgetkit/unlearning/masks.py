"""Masks at one bit per entry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BITS = (128, 64, 32, 16, 8, 4, 2, 1)


def pack_mask(mask: Tensor) -> Tensor:
    """The entries of a bool tensor in their logical order, eight to a byte, the first in the highest bit.

    uint8 of ``ceil(n / 8)`` bytes on the mask's device; the bits after the last entry are 0.
    """
    flat = mask.detach().flatten()
    return torch.from_numpy(np.packbits(flat.numpy())) if flat.device.type == "cpu" else _pack(flat)


def _pack(flat: Tensor) -> Tensor:
    """On any device."""
    rows = torch.nn.functional.pad(flat.to(torch.uint8), (0, -len(flat) % 8)).view(-1, 8)
    return (rows * torch.tensor(_BITS, dtype=torch.uint8, device=flat.device)).sum(1, dtype=torch.uint8)


def unpack_mask(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The contiguous bool tensor of ``shape`` that :func:`pack_mask` made ``bits`` of, on their device."""
    if bits.device.type != "cpu":
        return _unpack(bits, shape)
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=math.prod(shape))).view(torch.bool).view(tuple(shape))


def _unpack(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """From any device."""
    every = torch.tensor(_BITS, dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(1) & every).bool().flatten()[: math.prod(shape)].view(tuple(shape))


MaskCallback = Callable[[str, Tensor | None, torch.Size], None]
"""Told of each parameter that gets fresh values, under which mask (None: all of it), and of its shape."""


class MaskRecorder:
    """Takes masks down as they are written, at one bit per entry, on the CPU."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tensor | None, torch.Size]] = {}

    def __call__(self, name: str, mask: Tensor | None, shape: torch.Size) -> None:
        """A parameter's mask; None: all of it was reset."""
        self._kept[name] = (None if mask is None else pack_mask(mask).cpu(), shape)

    def __bool__(self) -> bool:
        return bool(self._kept)

    def state(self) -> dict[str, Any]:
        """In types that a checkpoint can hold: of each parameter its shape and, unless all was reset, its bits."""
        return {name: {"shape": list(shape), "bits": bits} for name, (bits, shape) in self._kept.items()}


def from_state(state: Mapping[str, Any]) -> Masks:
    """The masks that a :meth:`MaskRecorder.state` holds; ``ValueError`` where it is none."""
    kept: dict[str, tuple[Tensor | None, torch.Size]] = {}
    for name, entry in state.items():
        shape, bits = (entry.get("shape"), entry.get("bits")) if isinstance(entry, dict) else (None, None)
        if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"the mask of '{name}' has no shape")
        length = -(-math.prod(shape) // 8)
        if bits is not None and not (
            isinstance(bits, Tensor) and bits.dtype == torch.uint8 and bits.shape == (length,)
        ):
            raise ValueError(f"the mask of '{name}' does not have the bits of its shape")
        kept[name] = (bits, torch.Size(shape))
    return Masks(kept)


class Masks(Mapping[str, Tensor]):
    """Bool tensors by name, kept at one bit per entry.

    Each asking makes a new tensor, so that changing it changes no mask: ``dict(masks)`` is one to change. Equal to
    itself alone, since tensors have no one truth to compare.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, kept: Mapping[str, tuple[Tensor | None, torch.Size]]) -> None:
        """``kept``: of each mask what :func:`pack_mask` made of it, and its shape; None: all of it is True."""
        self._kept = kept

    def __getitem__(self, name: str) -> Tensor:
        bits, shape = self._kept[name]
        return torch.ones(shape, dtype=torch.bool, device="cpu") if bits is None else unpack_mask(bits, shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        shapes = ", ".join(f"'{name}': {tuple(shape)}" for name, (_, shape) in self._kept.items())
        return f"Masks({{{shapes}}})"
