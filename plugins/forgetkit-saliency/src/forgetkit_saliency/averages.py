"""Means over batches and samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from forgetkit.contracts import Gradients, SampleGradients


def mean_of(start: dict[str, Tensor], parts: Iterable[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The mean of ``parts``, weighted by how much each counts, written into ``start``, which holds zeros."""
    seen = 0.0
    for count, part in parts:
        seen += count
        for name, value in part.items() if count else ():
            start[name].lerp_(value, count / seen)  # of a single part: its own to the bit
    return start


def absolutes(chunks: Iterable[SampleGradients]) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """How much each chunk of samples counts, and its mean |g|."""
    for chunk in chunks:
        yield chunk.count, chunk.mean(torch.abs)


def counted(grads: Gradients) -> tuple[float, Gradients]:
    """How much a batch counts, and its gradients."""
    return grads.count, grads
