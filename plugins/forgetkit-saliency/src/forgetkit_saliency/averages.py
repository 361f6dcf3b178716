"""Means over batches and samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor


def mean_of(start: dict[str, Tensor], parts: Iterable[tuple[int, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The mean of ``parts``, weighted by size, written into ``start``, which holds zeros."""
    seen = 0
    for count, part in parts:
        seen += count
        for name, value in part.items():
            start[name].lerp_(value, count / seen)  # of a single part: its own to the bit
    return start


def absolutes(chunks: Iterable[Mapping[str, Tensor]]) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The size and the mean |g| of each chunk of samples."""
    for chunk in chunks:
        count = len(next(iter(chunk.values())))
        yield count, {name: gradients.abs().mean(0) for name, gradients in chunk.items()}
