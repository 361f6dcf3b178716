"""Checks that targets are class numbers, for criteria that consider labels other than the given ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forgetkit.contracts import Probe
from forgetkit.errors import OptionError


def require_classes(outputs: Any, targets: Tensor, component_name: str, remedy: str) -> None:
    """Check that a network classifies.

    Args:
        outputs: What the network returns: logits of shape ``(batch, classes, ...)`` with at least two classes.
        targets: Class numbers, integers of shape ``(batch, ...)``; a negative one marks an ignored sample.
        component_name: The component's name in messages.
        remedy: What to do otherwise, for the message.

    Raises:
        OptionError: If outputs or targets are anything else.
    """
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        raise OptionError(
            f"{component_name} need outputs of shape (batch, classes), two classes at least, not {shape}: {remedy}"
        )
    if not isinstance(targets, Tensor):
        raise OptionError(f"{component_name} need targets that are a tensor of class numbers: {remedy}")
    integers = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if not integers or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        raise OptionError(
            f"{component_name} need targets that are class numbers, one integer for each output, not {targets.dtype} "
            f"of shape {tuple(targets.shape)} beside outputs of shape {shape}: {remedy}"
        )
    highest = int(targets.max()) if targets.numel() else 0
    if highest >= outputs.shape[1]:
        raise OptionError(
            f"{component_name} need targets that are class numbers, and {highest} is none of {outputs.shape[1]} "
            f"classes: {remedy}"
        )


def class_probabilities(probe: Probe, inputs: Any, targets: Any, component_name: str, remedy: str) -> Tensor:
    """Return the predicted distribution, ``(batch, classes)``; see :func:`require_classes` for arguments and errors.

    Targets that are no tensor are not looked at: batches that are no pairs hold theirs where the model finds them.
    """
    outputs = probe.outputs(inputs)
    if isinstance(outputs, Tensor) and outputs.ndim != 2:
        raise OptionError(
            f"{component_name} need outputs of shape (batch, classes), not {tuple(outputs.shape)}: {remedy}"
        )
    shown = targets if isinstance(targets, Tensor) else torch.zeros(len(targets), dtype=torch.int64)
    require_classes(outputs, shown, component_name, remedy)
    return outputs.softmax(-1)
