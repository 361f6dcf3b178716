"""Samples on the device, and batches of them: order and augmentation are drawn once per epoch.

Each image gets its own crop and flip, computed for a whole batch at once: torchvision's transforms draw once per call,
which would give all images of a batch the same crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forgetkit.contracts import Augmentation, DataSplit, Sampling
from forgetkit.data.ledger import LazySubset
from forgetkit.seeding import Seeds
from forgetkit.system import memory

MEMORY_SHARE = 1 / 4
"""The fraction of available memory that a pool's samples may take; larger pools stay on disk."""

_AT_ONCE = 1 << 25
"""Bytes of samples, as floats, that are moved or evaluated at once if no batch size is given."""


@dataclass(frozen=True, eq=False)
class LazyInputs:
    """The inputs of samples that stay on disk: read on each access, indexed like a tensor of all of them."""

    excerpt: LazySubset
    to: torch.device
    device = torch.device("cpu")
    """The device of its indices."""

    @property
    def shape(self) -> torch.Size:
        """The shape of a tensor of all inputs."""
        return torch.Size((len(self.excerpt), *self.excerpt.shape))

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        ids = self.excerpt.ids[places if isinstance(places, slice) else places.numpy()]
        return _tensor(self.excerpt.read(ids).inputs).to(self.to)


@dataclass(frozen=True, eq=False)
class SamplePool:
    """Samples to train, score or evaluate on, images still as ``uint8``: on a device, or read when needed."""

    inputs: Tensor | LazyInputs
    labels: Tensor

    @classmethod
    def of(cls, part: DataSplit, device: torch.device) -> SamplePool:
        """Move a part to ``device``."""
        return cls(_tensor(part.inputs).to(device), _tensor(part.labels).to(device))

    @classmethod
    def fitting(cls, excerpt: LazySubset, device: torch.device) -> SamplePool:
        """Read all samples to ``device`` if they fit into a fraction of its available memory.

        Otherwise each batch is read when it is needed. The batches are the same to the bit.
        """
        if not fits_in_memory(len(excerpt) * excerpt.sample_bytes, device):
            return cls(LazyInputs(excerpt, device), _tensor(excerpt.labels).to(device))
        if device.type == "cpu":
            return cls.of(excerpt.read(excerpt.ids), device)
        return cls(_load_to_device(excerpt, device), _tensor(excerpt.labels).to(device))

    def __len__(self) -> int:
        return len(self.labels)

    def in_order(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all samples in order, ``size`` at a time, as pixels in [0, 1]."""
        for start in range(0, len(self), size):
            yield pixels(self.inputs[start : start + size]), self.labels[start : start + size]

    def at_most(self, size: int) -> int:
        """Limit a batch size by memory, to at least two samples."""
        return max(2, min(size, _AT_ONCE // (4 * self.inputs.shape[1:].numel())))


@dataclass(frozen=True, eq=False)
class ScoringBatches:
    """A pool to be looked at: the same batches each time it is read, in a random order or as it stands.

    ``before_batch`` is called before each batch, and may raise.
    """

    pool: SamplePool
    seeds: Seeds
    size: int
    sampling: Sampling = "random"
    augment: Augmentation = "none"
    before_batch: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.pool))
        if self.sampling == "random":
            order = torch.randperm(len(self.pool), generator=self.seeds.torch("order"))
        for batch in _batches(self.pool, order, self.size, self.augment, self.seeds):
            if self.before_batch is not None:
                self.before_batch()
            yield batch


def fits_in_memory(size: int, device: torch.device) -> bool:
    """Whether ``size`` bytes fit into a fraction of the memory available on ``device``; True if that is unknown."""
    available = memory.available(device)
    return available is None or size <= MEMORY_SHARE * available


def epoch_batches(
    pool: SamplePool, size: int, augment: Augmentation, seeds: Seeds, samples: int | None = None, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch: every sample once (or the first ``samples``), in an order and with crops that ``seeds`` fix.

    ``first`` is the number of the batch to begin with, if a resumed epoch has trained on those before it.
    """
    order = torch.randperm(len(pool), generator=seeds.torch("order"))
    return _batches(pool, order[:samples], size, augment, seeds, first)


def _batches(
    pool: SamplePool, order: Tensor, size: int, augment: Augmentation, seeds: Seeds, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    order = order.to(pool.inputs.device)
    draws = _AugmentationDraws.of(pool, augment, seeds)
    for start, stop in batch_bounds(len(order), size)[first:]:
        ids = order[start:stop]
        inputs = pool.inputs[ids]
        yield pixels(inputs if draws is None else draws.applied(inputs, start, stop)), pool.labels[ids]


def _load_to_device(excerpt: LazySubset, device: torch.device) -> Tensor:
    """Copy all inputs to another device in pieces, so that main memory holds one piece at a time."""
    whole = _tensor(excerpt.read(excerpt.ids[:0]).inputs).to(device).new_empty((len(excerpt), *excerpt.shape))
    step = max(1, _AT_ONCE // max(1, excerpt.sample_bytes))
    for start in range(0, len(excerpt), step):
        whole[start : start + step] = _tensor(excerpt.read(excerpt.ids[start : start + step]).inputs)
    return whole


def _tensor(array: NDArray[Any]) -> Tensor:
    """Wrap an array; a read-only memory map is copied."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def batch_bounds(samples: int, size: int) -> list[tuple[int, int]]:
    """Return where batches start and stop. A lone last sample joins the batch before it, for batch normalisation."""
    starts = list(range(0, samples, size))
    if len(starts) > 1 and samples - starts[-1] == 1 and size > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], samples], strict=True))


def pixels(inputs: Tensor) -> Tensor:
    """Convert ``uint8`` in 0..255 to float32 in [0, 1]; keep floats."""
    return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs


@dataclass(frozen=True, eq=False)
class _AugmentationDraws:
    """The crop of each image of an epoch, and whether it is mirrored."""

    pad: int
    offsets: Tensor
    flips: Tensor

    @classmethod
    def of(cls, pool: SamplePool, augment: Augmentation, seeds: Seeds) -> _AugmentationDraws | None:
        if augment == "none":
            return None
        samples, device, rng = len(pool), pool.labels.device, seeds.torch("augment")
        pad = max(pool.inputs.shape[-2:]) // 8 if "crop" in augment else 0
        offsets = torch.randint(0, 2 * pad + 1, (samples, 2), generator=rng)
        flips = torch.rand(samples, generator=rng) < (0.5 if "flip" in augment else 0.0)
        return cls(pad, offsets.to(device), flips.to(device))

    def applied(self, images: Tensor, start: int, stop: int) -> Tensor:
        """Pad with black, crop each image to its old size, mirror half of them."""
        offsets, flips = self.offsets[start:stop], self.flips[start:stop]
        channels, height, width = images.shape[-3:]
        padded = torch.nn.functional.pad(images, (self.pad,) * 4)
        down = torch.arange(height, device=images.device)
        across = torch.arange(width, device=images.device)
        rows = offsets[:, :1] + down
        columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - across, across)
        # Positions in each image's plane, the same for all channels: one gather is faster than 4-D indexing.
        positions = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).flatten(1)
        picked = padded.flatten(2).gather(2, positions[:, None].expand(-1, channels, -1))
        return picked.view(-1, channels, height, width)
