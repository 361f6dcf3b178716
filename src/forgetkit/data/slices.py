"""Slices of a large array."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray


def slices_of(samples: NDArray[Any], limit: int) -> Iterator[slice]:
    """Yield slices of at most ``limit`` bytes, at least one sample each: reading them keeps a memory map on disk."""
    step = max(1, limit // max(1, samples[:1].nbytes))
    return (slice(start, start + step) for start in range(0, len(samples), step))
