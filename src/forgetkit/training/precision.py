"""Rules for the ``auto`` values of memory format, precision and threads."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from forgetkit.contracts import Inputs
from forgetkit.errors import ConfigError
from forgetkit.seeding import seeded_rng

MemoryFormat = Literal["contiguous", "channels-last"]
Precision = Literal["fp32", "bf16"]

_BF16_OPERATIONS = 1e9
"""Floating-point operations of a batch going forward, below which casts cost more than bf16 saves."""

_THREADS_OPERATIONS = 2e8
"""The same, from which more than one thread pays: docs/performance.md has the measurements."""

_BLOCK_CHANNELS = 16
"""Channels that oneDNN computes at once."""


def choose_memory_format(asked: str, model: nn.Module, inputs: Inputs, device: torch.device) -> MemoryFormat:
    """Resolve ``auto``: channels last for images that go through 2-D convolutions, whose kernels are fastest so.

    Raises:
        ConfigError: ``channels-last`` is ``asked`` for and would be ignored, or is not safe.
    """
    convolves = len(inputs.shape) == 3 and any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in model.modules())
    if asked == "channels-last" and not convolves:
        raise ConfigError(
            "--memory-format channels-last would be ignored: the network has no 2-D convolution over images; "
            "leave it out"
        )
    if any(t.ndim > 4 for t in (*model.parameters(), *model.buffers())):  # which have no such layout
        if asked == "channels-last":
            raise ConfigError(
                "--memory-format channels-last: a tensor of the network has five dimensions; leave it out"
            )
        return "contiguous"
    unsafe = _unsafe_in_channels_last(model) if device.type == "cpu" else None
    if unsafe is not None:
        if asked == "channels-last":
            raise ConfigError(
                "--memory-format channels-last: in that layout torch's backward pass on the CPU can end the process "
                f"at '{unsafe}', a strided 1x1 convolution of less than {_BLOCK_CHANNELS} channels; leave it out"
            )
        return "contiguous"
    if asked == "auto":
        return "channels-last" if convolves and device.type in ("cpu", "cuda") else "contiguous"
    return "channels-last" if asked == "channels-last" else "contiguous"


def _unsafe_in_channels_last(model: nn.Module) -> str | None:
    """The name of the first convolution whose backward pass writes out of bounds in torch 2.15.

    Measured: a 1x1 kernel, a stride, fewer input channels than a block, and a batch that threads divide unevenly. The
    rule ignores batch and threads, which vary within a run, and torch's version, which must not change a run.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d) or module.in_channels // module.groups >= _BLOCK_CHANNELS:
            continue
        if set(module.kernel_size) == {1} and max(module.stride) > 1:
            return str(name)
    return None


def count_operations(model: nn.Module, inputs: Inputs, batch_size: int, device: torch.device) -> float:
    """Count the floating-point operations of a batch in the forward pass, by torch's own counter.

    The model is moved to ``device``; pass a copy if it must not move.
    """
    from torch.utils.flop_counter import FlopCounterMode  # which imports sympy, as the first optimizer does

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _of_a_recurrent_layer})
    was_training = model.training
    with seeded_rng(0), torch.enable_grad(), counter:  # without gradients attention is one call, too
        model.to(device).eval()(torch.zeros(2, *inputs.shape, device=device))
    model.train(was_training)
    return counter.get_total_flops() / 2 * batch_size


def _of_a_recurrent_layer(inputs: Sequence[int], *weights: Sequence[int], **_: object) -> int:
    """Operations of a recurrent layer in oneDNN, a single call that torch's counter does not know."""
    steps, batch, _width = inputs
    return sum(2 * steps * batch * math.prod(weight) for weight in weights[:2])


def choose_threads(operations: float, available: int) -> int:
    """Choose one thread for a batch of few operations, otherwise the ``available`` ones.

    Threads wait for each other after every layer. In a small network they wait longer than they compute, and much
    longer if other processes use the cores.
    """
    return 1 if operations < _THREADS_OPERATIONS else available


def choose_precision(operations: float, device: torch.device) -> Precision:
    """Choose bf16 for a batch of at least 1e9 operations on a device that multiplies bf16 natively, otherwise fp32."""
    return "bf16" if is_worth_bf16(operations) and has_native_bf16(device) else "fp32"


def is_worth_bf16(operations: float) -> bool:
    """Whether a batch takes enough operations for bf16."""
    return operations >= _BF16_OPERATIONS


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware, and torch uses that."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # on x86 it is true with AVX512 alone, too
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def bf16_failure(model: nn.Module, inputs: Inputs, device: torch.device) -> str | None:
    """Try a step in bf16 on two samples of zeros; return the error if the network cannot take one.

    The step leaves gradients and running statistics in ``model``.
    """
    try:
        with torch.enable_grad(), seeded_rng(0):
            model.to(device).train()
            with torch.autocast(device.type, torch.bfloat16):
                outputs = model(torch.zeros(2, *inputs.shape, device=device))
                loss = cross_entropy(outputs, torch.zeros(2, dtype=torch.int64, device=device))
            loss.backward()
    except RuntimeError as error:  # a network that mixes dtypes by hand
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def to_device(model: nn.Module, chosen: MemoryFormat, device: torch.device) -> nn.Module:
    """Move the model to its device, in its memory format."""
    form = torch.channels_last if chosen == "channels-last" else torch.preserve_format
    return model.to(device=device, memory_format=form)  # type: ignore[call-overload, no-any-return]
