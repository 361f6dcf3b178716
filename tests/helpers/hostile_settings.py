"""Process-wide settings that a caller may have changed, each as a context."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def set_and_reset(setter: Callable[[Any], object], value: Any, before: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


@contextmanager
def attribute(of: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(of, name)
    setattr(of, name, value)
    try:
        yield
    finally:
        setattr(of, name, before)


def default_device(device: str) -> AbstractContextManager[None]:
    return set_and_reset(torch.set_default_device, device, None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode("default")


@contextmanager
def old_and_new_precision() -> Iterator[None]:
    """torch refuses to read the older setting while both are set."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@contextmanager
def all_precisions(value: str) -> Iterator[None]:
    torch.backends.fp32_precision = value
    try:
        yield
    finally:
        torch.backends.fp32_precision = "none"


class Doubling(TorchFunctionMode):
    """Computes everything twice as large."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result * 2 if func in (torch.nn.functional.linear, torch.rand) else result


class Dropping(TorchDispatchMode):
    """Computes additions as zeros."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result * 0 if "addmm" in str(func) else result


@contextmanager
def forward_hook() -> Iterator[None]:
    handle = register_module_forward_hook(lambda module, inputs, outputs: outputs * 3)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def raising_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach() / 2 if tensor.is_floating_point() else tensor.detach()


HOSTILE: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": partial(set_and_reset, torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": partial(set_and_reset, torch.set_default_dtype, torch.bfloat16, torch.float32),
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "autocast-set": partial(set_and_reset, partial(torch.set_autocast_enabled, "cpu"), True, False),
    "no-grad": torch.no_grad,
    "enable-grad": torch.enable_grad,
    "inference": torch.inference_mode,
    "device": partial(torch.device, "meta"),
    "default-device": partial(default_device, "meta"),
    "medium": partial(set_and_reset, torch.set_float32_matmul_precision, "medium", "highest"),
    "deterministic": deterministic,
    "anomaly": partial(torch.autograd.set_detect_anomaly, True),
    "flush-denormal": partial(set_and_reset, torch.set_flush_denormal, True, False),
    "no-mkldnn": partial(attribute, torch.backends.mkldnn, "enabled", False),
    "cudnn": partial(attribute, torch.backends.cudnn, "benchmark", True),
    "no-nnpack": partial(torch.backends.nnpack.flags, enabled=False),
    "math-attention": partial(torch.nn.attention.sdpa_kernel, torch.nn.attention.SDPBackend.MATH),
    "saved-tensors": partial(torch.autograd.graph.saved_tensors_hooks, _halved, lambda tensor: tensor),
    "function-mode": Doubling,
    "dispatch-mode": Dropping,
    "forward-hook": forward_hook,
    "numpy-errors": partial(np.errstate, all="raise"),
    "warnings": raising_warnings,
}
"""By a name for the test."""

if hasattr(torch.backends, "fp32_precision"):  # torch 2.9
    HOSTILE = {
        **HOSTILE,
        "bf16-products": old_and_new_precision,
        "tf32-everywhere": partial(all_precisions, "tf32"),
    }


@contextmanager
def all_at_once() -> Iterator[None]:
    """But what raises of itself."""
    with ExitStack() as stack:
        for name in ("float64", "autocast", "no-grad", "default-device", "medium", "no-mkldnn", "forward-hook"):
            stack.enter_context(HOSTILE[name]())
        yield


def seen() -> list[Any]:
    """The settings, read through torch's public face as far as it has one."""
    return [
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.tensor([]).device,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")],
        torch.is_autocast_cache_enabled(),
        _precision(),
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.is_anomaly_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.backends.mkldnn.enabled,
        torch._C._get_nnpack_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.get_num_threads(),
        torch.overrides._get_current_function_mode_stack(),
        torch.utils._python_dispatch._get_current_dispatch_mode_stack(),
        dict(torch.nn.modules.module._global_forward_hooks),
        np.geterr(),
        [entry for entry in warnings.filters if entry[0] == "error"],
        2.0**-1000 * np.float64(2.0**-60) == 0,
    ]


def _precision() -> list[Any]:
    found: list[Any] = [torch.backends.cudnn.allow_tf32 if _readable(lambda: torch.backends.cudnn.allow_tf32) else None]
    found.append(torch.get_float32_matmul_precision() if _readable(torch.get_float32_matmul_precision) else None)
    if hasattr(torch.backends, "fp32_precision"):
        mkldnn, cudnn = torch.backends.mkldnn, torch.backends.cudnn
        found += [torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision]
        found += [part.fp32_precision for part in (mkldnn, mkldnn.matmul, mkldnn.conv, cudnn, cudnn.conv, cudnn.rnn)]
    return found


def _readable(read: Callable[[], Any]) -> bool:
    try:
        read()
    except RuntimeError:
        return False
    return True
