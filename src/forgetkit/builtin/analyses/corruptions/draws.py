"""Shared parts of the corruptions: random streams, conversion of pixels, enlarging."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgetkit.seeding import Seeds

Pixels = NDArray[np.uint8]
"""Images, ``(n, height, width, 3)``, red first."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class CorruptionDraws:
    """A random stream for each image, by the seed and the position among the samples.

    Neither the batch size nor the draws of another image change the draws of an image.
    """

    seeds: Seeds
    places: range

    @cached_property
    def streams(self) -> list[np.random.Generator]:
        """The generators, one per image."""
        return [self.seeds.numpy(place) for place in self.places]

    def normal(self, *shape: int, mean: float = 0.0, deviation: float = 1.0) -> Floats:
        """``(n, *shape)`` values, normally distributed."""
        return np.stack([stream.normal(mean, deviation, shape) for stream in self.streams])

    def uniform(self, low: float, high: float, *shape: int) -> Floats:
        """``(n, *shape)`` values, uniform between ``low`` and ``high``."""
        return np.stack([stream.uniform(low, high, shape) for stream in self.streams])

    def integers(self, low: int, high: int, *shape: int) -> NDArray[np.int64]:
        """``(n, *shape)`` integers from ``low`` to ``high - 1``."""
        return np.stack([stream.integers(low, high, shape) for stream in self.streams])

    def poisson(self, means: Floats) -> Floats:
        """A count for each of ``means``, whose first axis is that of the images."""
        return np.stack([stream.poisson(mean) for stream, mean in zip(self.streams, means, strict=True)])


def fractions(pixels: Pixels, kind: type[np.floating[Any]] = np.float64) -> Floats:
    """Pixels as floats in [0, 1]."""
    values: Floats = np.asarray(pixels, kind) / kind(255)
    return values


def quantize(values: Floats) -> Pixels:
    """Floats as pixels: clip to [0, 1] and round down, like the benchmark's program."""
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def enlarge(values: Floats, factor: float) -> Floats:
    """Enlarge the middle of each image by ``factor``, with linear interpolation; the size stays."""
    for axis in (1, 2):
        lower, upper, share = _between(values.shape[axis], factor)
        weights = share.astype(values.dtype).reshape([-1 if place == axis else 1 for place in range(values.ndim)])
        values = values.take(lower, axis) * (1 - weights) + values.take(upper, axis) * weights
    return values


def _between(size: int, factor: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """For each pixel of the enlarged middle, its two source pixels and the weight of the second."""
    middle = int(np.ceil(size / factor))
    large = round(middle * factor)
    first = (large - size) // 2
    places = np.arange(first, first + size) * ((middle - 1) / max(large - 1, 1))
    lower = np.minimum(places.astype(np.int64), middle - 1)
    start = (size - middle) // 2
    return start + lower, start + np.minimum(lower + 1, middle - 1), places - lower
