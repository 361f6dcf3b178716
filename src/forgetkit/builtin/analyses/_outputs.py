"""Samples that must exist, and logits that must be usable."""

from __future__ import annotations

from torch import Tensor

from forgetkit.contracts import DataPart, Evidence, LabelledSamples
from forgetkit.errors import InapplicableError


def require_samples(evidence: Evidence, part: DataPart, count: int | None = None) -> LabelledSamples:
    """Samples of a part of the data; raise ``InapplicableError`` if there are none."""
    samples = evidence.samples(part, count)
    if not len(samples):
        raise InapplicableError(f"there are no samples of the part '{part}': choose a run or a part that has some")
    return samples


def predictions(outputs: Tensor) -> Tensor:
    """The class of the highest logit, int64 ``(n,)``; raise ``InapplicableError`` if a logit is NaN."""
    if bool(outputs.isnan().any()):
        raise InapplicableError("the network's outputs are NaN, so it predicts no class: train it again")
    return outputs.argmax(1)


def diverged(outputs: Tensor) -> bool:
    """Whether logits hold NaN or +infinity, or a sample has -infinity (a masked class) alone."""
    return bool((outputs.isnan() | outputs.isposinf()).any() or outputs.isneginf().all(1).any())
