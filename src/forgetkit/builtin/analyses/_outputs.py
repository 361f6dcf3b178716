"""What a network's outputs say, and when they say nothing."""

from __future__ import annotations

from torch import Tensor

from forgetkit.errors import DoesNotApplyError


def predictions(outputs: Tensor) -> Tensor:
    """The class of the highest logit, int64 ``(n,)``; ``DoesNotApplyError`` if a logit is NaN, which has no order."""
    if bool(outputs.isnan().any()):
        raise DoesNotApplyError("the network's outputs are NaN, so that it has no answers to compare")
    return outputs.argmax(1)


def diverged(outputs: Tensor) -> bool:
    """Whether logits hold NaN or +infinity. That of a class which is masked may be -infinity: its probability is 0."""
    return bool((outputs.isnan() | outputs.isposinf()).any())
