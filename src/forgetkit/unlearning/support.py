"""Networks that cannot be reset: each is refused in one line, before anything is computed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from forgetkit.errors import OptionError
from forgetkit.unlearning.building import is_instance

_INFERENCE = "was made inside torch.inference_mode() and can have no gradient: build the network outside"


def require_gradients_possible(model: nn.Module) -> None:
    """Raise ``OptionError`` if a tensor of ``model`` was made in inference mode, which torch cannot differentiate."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise OptionError(f"'{name}' of {type(model).__name__} {_INFERENCE}")


def require_module(model: nn.Module) -> None:
    """Raise ``OptionError`` if ``model`` is no module, or one whose parameters torch hides.

    Args:
        model: What the caller passed as a network.

    Raises:
        OptionError: What is wrong, where, and what to do.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"model= takes a torch.nn.Module, not {type(model).__name__}")
    for path, module in model.named_modules():
        where = f"'{path}' of {type(model).__name__}" if path else type(model).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise OptionError(f"{where} is compiled by TorchScript: pass the module that it was made from")
        if is_instance(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            raise OptionError(
                f"{where} is wrapped by FullyShardedDataParallel, which flattens its parameters: shard it with "
                "torch.distributed.fsdp.fully_shard"
            )


def require_supported(model: nn.Module) -> None:
    """Raise ``OptionError`` if ``model`` cannot be scored or reset; see :func:`require_module`."""
    require_module(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if (reason := _why_not(tensor)) is not None:
            raise OptionError(f"'{name}' of {type(model).__name__} {reason}")
    _require_separate(model)


def _require_separate(model: nn.Module) -> None:
    """Raise ``OptionError`` if two parameters hold the same memory: a write to one would change the other."""
    spans = []
    for name, p in model.named_parameters():
        if type(p.data) is Tensor and p.numel() and p.device.type != "meta":
            extent = 1 + sum((size - 1) * stride for size, stride in zip(p.shape, p.stride(), strict=True))
            if extent == p.numel():  # without gaps: another tensor inside its span shares its memory
                start = p.data_ptr()
                spans.append((str(p.device), start, start + extent * p.element_size(), name))
    spans.sort()
    for (device, _, end, name), (other_device, start, _, other) in pairwise(spans):
        if device == other_device and start < end:
            raise OptionError(
                f"'{name}' and '{other}' of {type(model).__name__} share memory: hold one nn.Parameter in both places, "
                "or clone() one of them"
            )


def _why_not(given: Tensor) -> str | None:
    """Why a parameter or buffer can be neither scored nor restored, with the remedy."""
    tensor: Any = given
    if is_lazy(tensor):
        return "has no shape yet: run one batch through the network first"
    if tensor.is_meta:
        return "is on the meta device and has no values: give it values with to_empty() and load_state_dict()"
    if tensor.is_inference():
        return _INFERENCE
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout}): make it dense with to_dense()"
    if isinstance(given, nn.Parameter) and tensor.is_quantized:
        return "is quantized: reset the network before it is quantized"
    if isinstance(given, nn.Parameter) and tensor.requires_grad:
        wraps: bool = is_traceable_wrapper_subclass(tensor)
        if wraps and not is_instance(tensor, "torch.distributed.tensor", "DTensor"):
            return f"is a {type(tensor).__name__}, whose entries cannot be written one by one: use plain tensors"
        if any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
            return "has entries that share memory (expand): make it a tensor of its own with clone()"
    return None
