"""What a network's outputs say, and when they say nothing."""

from __future__ import annotations

from torch import Tensor

from forgetkit.errors import InapplicableError


def predictions(outputs: Tensor) -> Tensor:
    """The class of the highest logit, int64 ``(n,)``; ``InapplicableError`` if a logit is NaN, which has no order."""
    if bool(outputs.isnan().any()):
        raise InapplicableError("the network's outputs are NaN, so that it has no answers to compare")
    return outputs.argmax(1)


def diverged(outputs: Tensor) -> bool:
    """Whether logits hold NaN or +infinity. That of a class which is masked may be -infinity: its probability is 0.

    A sample whose classes are all masked has no probabilities: that is divergence too.
    """
    return bool((outputs.isnan() | outputs.isposinf()).any() or outputs.isneginf().all(1).any())
