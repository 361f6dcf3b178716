"""Masks at one bit per entry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forgetkit.unlearning.lazy_tensors import LazyTensors

_BITS = (128, 64, 32, 16, 8, 4, 2, 1)


def pack_mask(mask: Tensor) -> Tensor:
    """Pack a bool tensor in its logical order, eight entries to a byte, the first in the highest bit.

    Returns:
        uint8 of ``ceil(n / 8)`` bytes on the mask's device; the bits after the last entry are 0.
    """
    flat = mask.detach().flatten()
    return torch.from_numpy(np.packbits(flat.numpy())) if flat.device.type == "cpu" else _pack(flat)


def _pack(flat: Tensor) -> Tensor:
    """Pack on any device; numpy is faster on the CPU."""
    rows = torch.nn.functional.pad(flat.to(torch.uint8), (0, -len(flat) % 8)).view(-1, 8)
    return (rows * torch.tensor(_BITS, dtype=torch.uint8, device=flat.device)).sum(1, dtype=torch.uint8)


def unpack_mask(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo :func:`pack_mask`: return a contiguous bool tensor of ``shape`` on the device of ``bits``."""
    if bits.device.type != "cpu":
        return _unpack(bits, shape)
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=math.prod(shape))).view(torch.bool).view(tuple(shape))


def _unpack(bits: Tensor, shape: Sequence[int]) -> Tensor:
    every = torch.tensor(_BITS, dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(1) & every).bool().flatten()[: math.prod(shape)].view(tuple(shape))


PackedMask = tuple[Tensor | None, torch.Size]
"""What :func:`pack_mask` made of a mask (None: every entry is True), and the mask's shape."""

MaskCallback = Callable[[str, Tensor | None, torch.Size], None]
"""Gets the name, the mask (None: all of it) and the shape of each parameter that gets fresh values."""


class MaskRecorder:
    """A :data:`MaskCallback` that keeps each mask at one bit per entry, on the CPU."""

    def __init__(self) -> None:
        self._masks: dict[str, PackedMask] = {}

    def __call__(self, name: str, mask: Tensor | None, shape: torch.Size) -> None:
        """Record the mask of a parameter; None: all of it was reset."""
        self._masks[name] = (None if mask is None else pack_mask(mask).cpu(), shape)

    def __bool__(self) -> bool:
        return bool(self._masks)

    def state(self) -> dict[str, Any]:
        """Return the shape and bits of each mask, in types that a checkpoint can hold."""
        return {name: {"shape": list(shape), "bits": bits} for name, (bits, shape) in self._masks.items()}


def from_state(state: Mapping[str, Any]) -> Masks:
    """Return the masks of a :meth:`MaskRecorder.state`; raise ``ValueError`` if ``state`` is none."""
    masks: dict[str, PackedMask] = {}
    for name, entry in state.items():
        shape, bits = (entry.get("shape"), entry.get("bits")) if isinstance(entry, dict) else (None, None)
        if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"the mask of '{name}' has no shape")
        length = -(-math.prod(shape) // 8)
        if bits is not None and not (
            isinstance(bits, Tensor) and bits.dtype == torch.uint8 and bits.shape == (length,)
        ):
            raise ValueError(f"the mask of '{name}' does not have the bits of its shape")
        masks[name] = (bits, torch.Size(shape))
    return Masks(masks)


class Masks(LazyTensors):
    """Bool tensors by name, stored at one bit per entry.

    Each access makes a new tensor, and changing it changes no mask; ``dict(masks)`` is a mapping to change. A mapping
    of tensors has no single truth value, so ``==`` compares identity.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, packed: Mapping[str, PackedMask]) -> None:
        super().__init__(packed.keys(), lambda name: _mask_of(*packed[name]))
        self._packed = dict(packed)

    def spread(self, eligible: Mapping[str, Tensor]) -> Masks:
        """Return masks of whole tensors from those over the ``eligible`` entries alone; the others are False."""
        spread = dict(self._packed)
        for name, where in eligible.items():
            mask = self[name]
            whole = torch.zeros_like(where, device=mask.device).masked_scatter_(where.to(mask.device), mask)
            spread[name] = pack_mask(whole), whole.shape
        return Masks(spread)

    def __repr__(self) -> str:
        shapes = ", ".join(f"'{name}': {tuple(shape)}" for name, (_, shape) in self._packed.items())
        return f"Masks({{{shapes}}})"


def _mask_of(bits: Tensor | None, shape: torch.Size) -> Tensor:
    return torch.ones(shape, dtype=torch.bool, device="cpu") if bits is None else unpack_mask(bits, shape)


class EligibleScores(Mapping[str, Tensor]):
    """Scores of the entries alone that may be selected: one dimension where ``eligible`` has a mask."""

    def __init__(self, scores: Mapping[str, Tensor], eligible: Mapping[str, Tensor]) -> None:
        self._scores, self._eligible = scores, eligible

    def __getitem__(self, name: str) -> Tensor:
        score = self._scores[name]
        return score[self._eligible[name].to(score.device)] if name in self._eligible else score

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)
