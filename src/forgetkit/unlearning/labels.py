"""Whether targets are class numbers: for criteria that ask about other labels than those that are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forgetkit.contracts import Probe
from forgetkit.errors import OptionError


def require_classes(outputs: Any, targets: Tensor, who: str, remedy: str) -> None:
    """Check that a network classifies.

    Args:
        outputs: what the network gives, logits of shape ``(batch, classes, ...)`` of two classes at least.
        targets: class numbers, integers of shape ``(batch, ...)``; those below zero mean that a sample is ignored.
        who: the component that asks, for the message.
        remedy: what to do otherwise, for the message.

    Raises:
        OptionError: if outputs or targets are others.
    """
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        raise OptionError(f"{who} need outputs of shape (batch, classes), two classes at least, not {shape}: {remedy}")
    integers = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if not integers or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        raise OptionError(
            f"{who} need targets that are class numbers, one integer for each output, not {targets.dtype} of shape "
            f"{tuple(targets.shape)} beside outputs of shape {shape}: {remedy}"
        )
    highest = int(targets.max()) if targets.numel() else 0
    if highest >= outputs.shape[1]:
        raise OptionError(
            f"{who} need targets that are class numbers, and {highest} is none of {outputs.shape[1]} classes: {remedy}"
        )


def class_probabilities(probe: Probe, inputs: Tensor, targets: Tensor, who: str, remedy: str) -> Tensor:
    """The predicted distribution, ``(batch, classes)``; arguments and errors are those of :func:`require_classes`."""
    outputs = probe.outputs(inputs)
    if isinstance(outputs, Tensor) and outputs.ndim != 2:
        raise OptionError(f"{who} need outputs of shape (batch, classes), not {tuple(outputs.shape)}: {remedy}")
    require_classes(outputs, targets, who, remedy)
    return outputs.softmax(-1)
