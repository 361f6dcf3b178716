"""Settings of torch and NumPy that hold for a whole process or thread and change what is computed.

A caller or a plugin may have set any of them. :func:`torch_settings` sets all of them for a run,
:func:`scoring_settings` sets the few that scoring in a user's own loop depends on, and :func:`settings_restored` puts
back what a component changed and names it. There is one table of settings, so that none of the three misses one.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import overrides
from torch.backends import mha, opt_einsum
from torch.nn.modules import module
from torch.optim import optimizer
from torch.utils import _device, _python_dispatch

_c: Any = torch._C
"""What lies under torch's Python modules, which have no way to read some settings."""

_log = logging.getLogger("forgetkit")
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

_KEEP = object()
"""Stands for a usual value where a run leaves a setting as it is."""

_DTYPE, _DEVICE, _THREADS = "torch.set_default_dtype", "torch.set_default_device", "torch.set_num_threads"
_AUTOCAST = "torch.autocast"
_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Those that autocast knows, where torch was built for them."""

_PRECISIONS = (
    *(("generic", "all"), ("cuda", "all"), ("mkldnn", "all")),  # from these the others inherit
    *((backend, operation) for backend in ("cuda", "mkldnn") for operation in ("matmul", "conv", "rnn")),
)


@dataclass(frozen=True)
class _SettingsScope:
    """What surrounds a computation: whom it has named, so that it names each once, and whether all is set."""

    reported: set[str]
    whole: bool


_scope: ContextVar[_SettingsScope | None] = ContextVar("scope", default=None)


@dataclass(frozen=True, eq=False)
class TorchSetting:
    """A setting: what torch calls it, how to read and write it, and its value in a run."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    usual: Any = _KEEP


Snapshot = tuple[Any, ...]
"""The value of each setting, in the order of the table."""


def snapshot() -> Snapshot:
    """The settings as they are now."""
    return tuple(setting.read() for setting in _table())


def restore(before: Snapshot) -> list[str]:
    """Put back a snapshot.

    Returns:
        The names of the settings that were different.
    """
    changed = []
    for setting, old in zip(_table(), before, strict=True):
        if setting.read() != old:
            setting.write(old)
            changed.append(setting.name)
    return changed


@contextmanager
def torch_settings(threads: int | None = None) -> Iterator[None]:
    """Compute with settings that hang on nothing but this call; afterwards they are as they were.

    They are torch's own defaults, except that cuDNN takes convolutions that give the same bits each time. Modes and
    hooks of the caller, which see or change each operation, are set aside, and a warning names them.

    Args:
        threads: Of torch on the CPU. None leaves their number as it is.
    """
    wanted = {setting: setting.usual for setting in _table() if setting.usual is not _KEEP}
    if threads is not None:
        wanted[_setting_named(_THREADS)] = threads
    with _entered_scope(_SettingsScope(set(), whole=True)), _with_values(wanted) as before:
        aside = _code_in(before)
        if aside:
            _log.warning("set aside while forgetkit computes: %s", ", ".join(aside))
        yield


@contextmanager
def scoring_settings(dtype: torch.dtype, reported: set[str] | None = None) -> Iterator[None]:
    """Score in a user's own loop: with gradients, outside inference mode and autocast.

    Tensors that are made without a dtype or a device are of ``dtype`` and on the CPU meanwhile, as they are in a run.
    All other settings are the user's; those of a run are in force already.

    Args:
        dtype: What the network is scored in.
        reported: Whom earlier calls have named. None starts anew.
    """
    scope = _scope.get()
    if scope is not None and torch.get_default_dtype() == dtype:
        yield
        return
    if scope is None:
        scope = _SettingsScope(set() if reported is None else reported, whole=False)
    wanted = {
        **{setting: setting.usual for setting in _table() if setting.name.startswith(_AUTOCAST)},
        _setting_named(_DTYPE): dtype,
        _setting_named(_DEVICE): _without_devices(_read_function_modes()),
    }
    with _entered_scope(scope), _with_values(wanted):
        yield


@contextmanager
def settings_restored(name: str) -> Iterator[None]:
    """Put back what the code inside changes of the settings, and warn once that ``name`` changed them."""
    changed: list[str] = []
    try:
        with restored(changed):
            yield
    finally:
        scope = _scope.get() or _SettingsScope(set(), whole=False)
        if changed and name not in scope.reported:
            scope.reported.add(name)
            _log.warning("%s changed %s for the whole process: put back", name, ", ".join(changed))


def under_torch_settings(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Call ``function`` inside :func:`torch_settings`, unless a surrounding one is in force already."""

    @wraps(function)
    def inside(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        with _outermost_settings():
            return function(*args, **kwargs)

    return inside


def each_under_torch_settings(items: Iterable[_Result]) -> Iterator[_Result]:
    """Compute each item inside :func:`torch_settings`, and hand it over outside."""
    return _each(_outermost_settings, items)


def _outermost_settings() -> AbstractContextManager[None]:
    scope = _scope.get()
    return nullcontext() if scope is not None and scope.whole else torch_settings()


def each_restored(name: str, items: Iterable[_Result]) -> Iterator[_Result]:
    """Compute each item inside :func:`settings_restored`, and hand it over outside."""
    return _each(lambda: settings_restored(name), items)


def _each(inside: Callable[[], AbstractContextManager[None]], items: Iterable[_Result]) -> Iterator[_Result]:
    """No context stays open while the caller has an item: what is entered last must be left first."""
    iterator, end = iter(items), object()
    while True:
        with inside():
            item: Any = next(iterator, end)
        if item is end:
            return
        yield item


@contextmanager
def _entered_scope(scope: _SettingsScope) -> Iterator[None]:
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def restored(changed: list[str]) -> Iterator[None]:
    """Add the names of what was different to ``changed``; grad and inference mode are restored by torch's own guard."""
    before = snapshot()
    grad = torch.is_grad_enabled()
    with torch.inference_mode(torch.is_inference_mode_enabled()), torch.set_grad_enabled(grad):
        try:
            yield
        finally:
            changed += restore(before)


@contextmanager
def _with_values(wanted: Mapping[TorchSetting, Any]) -> Iterator[Snapshot]:
    """Gradients on, inference mode off and the ``wanted`` values set; all of it as before afterwards."""
    before = snapshot()
    with torch.inference_mode(False), torch.enable_grad():
        try:
            for setting, value in wanted.items():
                if setting.read() != value:
                    setting.write(value)
            torch.clear_autocast_cache()
            yield before
        finally:
            torch.clear_autocast_cache()  # or autocast would use the old cast of a weight that was written to
            restore(before)


@cache
def _table() -> tuple[TorchSetting, ...]:
    """All settings. Grad mode comes last, because other settings are written under any."""
    half: bool | tuple[bool, bool] = (True, True)
    if not isinstance(_c._get_cublas_allow_fp16_reduced_precision_reduction(), tuple):  # before torch 2.10
        half = True
    return (
        TorchSetting("torch.set_default_tensor_type", _c._get_default_device, _write_tensor_type, "cpu"),
        TorchSetting(_DTYPE, torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        TorchSetting(_DEVICE, _read_function_modes, _write_function_modes, ((), None, None)),
        TorchSetting("a TorchDispatchMode", _read_dispatch_modes, _write_dispatch_modes, ()),
        *_autocast(),
        TorchSetting("torch.set_float32_matmul_precision", _read_precision, _write_precision, _USUAL_PRECISION),
        TorchSetting("torch.use_deterministic_algorithms", _read_deterministic, _write_deterministic, (False, False)),
        *_flag("torch.utils.deterministic.fill_uninitialized_memory", "deterministic_fill_uninitialized_memory", True),
        TorchSetting("torch.autograd.set_detect_anomaly", _read_anomaly, _write_anomaly, (False, True)),
        TorchSetting("torch.set_flush_denormal", _flushes, torch.set_flush_denormal, False),
        TorchSetting("torch.autograd.graph.saved_tensors_hooks", _read_saved_hooks, _write_saved_hooks, ()),
        TorchSetting("hooks on every module or optimizer", _read_hooks, _write_hooks, {}),
        *_flag("torch.backends.cudnn.enabled", "cudnn_enabled", True),
        *_flag("torch.backends.cudnn.deterministic", "cudnn_deterministic", True),
        *_flag("torch.backends.cudnn.benchmark", "cudnn_benchmark", False),
        *_flag("torch.backends.cudnn.depthwise_kernel", "cudnn_depthwise_kernel", "auto"),
        *_flag("torch.backends.mkldnn.enabled", "mkldnn_enabled", True),
        *_flag("torch.backends.mkldnn.deterministic", "mkldnn_deterministic", False),
        *_flag("torch.backends.nnpack", "nnpack_enabled", True),
        *_flag("torch.backends.cuda.matmul", "cublas_allow_fp16_reduced_precision_reduction", half),
        *_flag("torch.backends.cuda.matmul", "cublas_allow_bf16_reduced_precision_reduction", half),
        *_flag("torch.backends.cuda.matmul", "cublas_allow_fp16_accumulation", False),
        *_flag("torch.backends.cuda.preferred_linalg_library", "linalg_preferred_backend"),
        *_flag("torch.backends.cuda.preferred_blas_library", "blas_preferred_backend"),
        *_attention(),
        TorchSetting(
            "torch.backends.opt_einsum", _read_einsum, _write_einsum, torch.backends.opt_einsum.is_available()
        ),
        TorchSetting(_THREADS, torch.get_num_threads, torch.set_num_threads),
        *_numpy(),
        TorchSetting("warnings.simplefilter", _read_raising, _write_raising),
        TorchSetting("torch.inference_mode", torch.is_inference_mode_enabled, _no_write),
        TorchSetting("torch.set_grad_enabled", torch.is_grad_enabled, torch.set_grad_enabled),
    )


def _setting_named(name: str) -> TorchSetting:
    return next(setting for setting in _table() if setting.name == name)


def _no_write(value: object) -> None:
    """torch's own guard restores this setting."""


def _flag(name: str, stem: str, usual: Any = _KEEP) -> Iterator[TorchSetting]:
    """A setting of one value, where this version of torch has it."""
    read, write = (getattr(_c, f"_{verb}_{stem}", None) for verb in ("get", "set"))
    if read is not None and write is not None:
        yield TorchSetting(name, read, partial(_spread, write), usual)


def _spread(write: Callable[..., object], value: Any) -> None:
    """Some settings are read as one tuple and written as several arguments."""
    write(*value) if isinstance(value, tuple) else write(value)


def _attention() -> Iterator[TorchSetting]:
    name = "torch.nn.attention.sdpa_kernel"
    for kernel in ("flash", "mem_efficient", "math", "cudnn", "overrideable"):
        read = getattr(_c, f"_get_{kernel}_sdp_enabled", None)
        write = getattr(_c, f"_set_sdp_use_{kernel}", None)
        if read is not None and write is not None:
            yield TorchSetting(name, read, write, True)
    order = [getattr(_c, f"_{verb}_sdp_priority_order", None) for verb in ("get", "set")]
    if None not in order:
        yield TorchSetting(name, *order)  # type: ignore[arg-type]
    yield from _flag(name, "math_sdp_allow_fp16_bf16_reduction", False)
    yield TorchSetting(
        "torch.backends.mha.set_fastpath_enabled", mha.get_fastpath_enabled, mha.set_fastpath_enabled, True
    )


def _numpy() -> Iterator[TorchSetting]:
    usual = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
    yield TorchSetting("numpy.seterr", np.geterr, lambda value: np.seterr(**value), usual)
    yield TorchSetting("numpy.seterrcall", np.geterrcall, np.seterrcall, None)
    yield TorchSetting("numpy.setbufsize", np.getbufsize, np.setbufsize, 8192)


def _autocast() -> Iterator[TorchSetting]:
    for device in _DEVICES:
        if torch.amp.is_autocast_available(device):
            usual = (False, torch.bfloat16 if device == "cpu" else torch.float16)
            read, write = partial(_read_autocast, device), partial(_write_autocast, device)
            yield TorchSetting(f"{_AUTOCAST}('{device}')", read, write, usual)
    cached, cache = torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled
    yield TorchSetting(f"{_AUTOCAST}(cache_enabled=)", cached, cache, True)
    # Inside a caller's autocast the casts of weights would outlive a step, because only the outermost clears them.
    yield TorchSetting(f"{_AUTOCAST} nesting", _read_nesting, _write_nesting, 0)


def _read_autocast(device: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _write_autocast(device: str, value: tuple[bool, torch.dtype]) -> None:
    torch.set_autocast_enabled(device, value[0])
    torch.set_autocast_dtype(device, value[1])


def _read_nesting() -> int:
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return int(depth)


def _write_nesting(depth: int) -> None:
    for _ in range(_read_nesting(), depth):
        torch.autocast_increment_nesting()
    for _ in range(depth, _read_nesting()):
        torch.autocast_decrement_nesting()


def _write_tensor_type(device: str) -> None:
    dtype = torch.get_default_dtype()
    with warnings.catch_warnings():  # it is deprecated, but a user may have set it
        warnings.simplefilter("ignore")
        torch.set_default_tensor_type(torch.FloatTensor if device == "cpu" else getattr(torch, device).FloatTensor)
    torch.set_default_dtype(dtype)


_FunctionModes = tuple[tuple[Any, ...], Any, Any]
"""The modes in force, and what ``torch.set_default_device`` keeps to find its own among them."""


def _read_function_modes() -> _FunctionModes:
    kept = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return tuple(overrides._get_current_function_mode_stack()), kept, _device.CURRENT_DEVICE


def _write_function_modes(value: _FunctionModes) -> None:
    for _ in overrides._get_current_function_mode_stack():
        overrides._pop_mode()
    for mode in value[0]:
        overrides._push_mode(mode)
    torch._GLOBAL_DEVICE_CONTEXT.device_context = value[1]
    _device.CURRENT_DEVICE = value[2]


def _without_devices(value: _FunctionModes) -> _FunctionModes:
    return tuple(mode for mode in value[0] if not isinstance(mode, _device.DeviceContext)), None, None


def _read_dispatch_modes() -> tuple[Any, ...]:
    return tuple(_python_dispatch._get_current_dispatch_mode_stack())


def _write_dispatch_modes(modes: tuple[Any, ...]) -> None:
    for _ in _read_dispatch_modes():
        _python_dispatch._pop_mode()
    for mode in modes:
        _python_dispatch._push_mode(mode)


_Precision = tuple[str, bool, Mapping[tuple[str, str], str]]
"""torch's older settings for products and for convolutions, and its newer ones by backend and operation."""

_CONVOLUTIONS = (("cuda", "conv"), ("cuda", "rnn"))
_USUAL_PRECISION: _Precision = (
    "highest",
    True,
    {key: "tf32" if key in _CONVOLUTIONS else "none" for key in _PRECISIONS},
)


def _read_precision() -> _Precision:
    """An operation without a value of its own reads as what it inherits, so it is read while that is nothing."""
    read, write = (getattr(_c, f"_{verb}_fp32_precision_{verb}ter", None) for verb in ("get", "set"))
    if read is None or write is None:  # before torch 2.9
        return torch.get_float32_matmul_precision(), _c._get_cudnn_allow_tf32(), _USUAL_PRECISION[2]
    newer = {}
    for key in _PRECISIONS:
        newer[key] = read(*key)
        if key[1] == "all" and newer[key] != "none":
            write(*key, "none")
    try:
        return (*_older_precision(newer, write), newer)
    finally:
        for key in _PRECISIONS[:3]:
            if newer[key] != "none":
                write(*key, newer[key])


def _older_precision(newer: Mapping[tuple[str, str], str], write: Callable[..., object]) -> tuple[str, bool]:
    """torch refuses to read the older settings where newer ones contradict them; those are put aside meanwhile."""
    try:
        return torch.get_float32_matmul_precision(), bool(_c._get_cudnn_allow_tf32())
    except RuntimeError:
        pass
    for key in _PRECISIONS[3:]:
        write(*key, "none")
    found = "highest", True
    with suppress(RuntimeError):
        found = torch.get_float32_matmul_precision(), bool(_c._get_cudnn_allow_tf32())
    for key in _PRECISIONS[3:]:
        write(*key, newer[key])
    return found


def _write_precision(value: _Precision) -> None:
    with warnings.catch_warnings():  # some versions advise on the newer of the two ways
        warnings.simplefilter("ignore", UserWarning)
        _set_precision(value)


def _set_precision(value: _Precision) -> None:
    now, write = _read_precision(), getattr(_c, "_set_fp32_precision_setter", None)
    if now[0] != value[0]:
        torch.set_float32_matmul_precision(value[0])
    if now[1] != value[1]:
        _c._set_cudnn_allow_tf32(value[1])
    if write is not None:
        now = _read_precision()  # an older setting writes newer ones too
        for key in reversed(_PRECISIONS):
            if now[2][key] != value[2][key]:
                write(*key, value[2][key])


def _read_deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _write_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _read_anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _write_anomaly(value: tuple[bool, bool]) -> None:
    torch.set_anomaly_enabled(*value)


def _flushes() -> bool:
    """torch has no way to ask: half of the smallest normal number is denormal."""
    return sys.float_info.min / 2 == 0


def _read_saved_hooks() -> tuple[tuple[Any, Any], ...]:
    """From the outermost to the one in force; only that can be read, so they are taken off and put on again."""
    hooks, autograd = [], _c._autograd
    while (top := autograd._top_saved_tensors_default_hooks(False)) is not None:
        hooks.append(top)
        autograd._pop_saved_tensors_default_hooks()
    for pair in reversed(hooks):
        autograd._push_saved_tensors_default_hooks(*pair)
    return tuple(reversed(hooks))


def _write_saved_hooks(hooks: tuple[tuple[Any, Any], ...]) -> None:
    autograd = _c._autograd
    for _ in _read_saved_hooks():
        autograd._pop_saved_tensors_default_hooks()
    for pair in hooks:
        autograd._push_saved_tensors_default_hooks(*pair)


def _read_hooks() -> Mapping[str, Mapping[Any, Any]]:
    """Hooks on all modules and all optimizers of the process, and what torch keeps beside them, by its own names."""
    return {name: dict(table) for name, table in _hook_tables().items() if table}


def _write_hooks(hooks: Mapping[str, Mapping[Any, Any]]) -> None:
    for name, table in _hook_tables().items():
        table.clear()
        table.update(hooks.get(name, {}))


@cache
def _hook_tables() -> Mapping[str, MutableMapping[Any, Any]]:
    named = {
        name: value for of in (module, optimizer) for name, value in vars(of).items() if name.startswith("_global_")
    }
    return {name: table for name, table in named.items() if isinstance(table, MutableMapping)}


def _read_einsum() -> bool:
    return bool(opt_einsum.enabled)


def _write_einsum(enabled: bool) -> None:
    opt_einsum.set_flags(enabled)


def _read_raising() -> tuple[Any, ...]:
    """The filters that turn a warning into an error; others change no result."""
    return tuple(entry for entry in warnings.filters if entry[0] == "error")


def _write_raising(kept: tuple[Any, ...]) -> None:
    added = [entry for entry in _read_raising() if entry not in kept]
    warnings.filters[:] = [entry for entry in warnings.filters if entry not in added]  # type: ignore[index]


def _code_in(before: Snapshot) -> list[str]:
    """What a run sets aside that is no setting but code: modes and hooks, by their names."""
    found = []
    for setting, value in zip(_table(), before, strict=True):
        if setting.name == _DEVICE:
            found += [type(mode).__name__ for mode in _without_devices(value)[0]]
        elif setting.read == _read_dispatch_modes:
            found += [type(mode).__name__ for mode in value]
        elif setting.read in (_read_hooks, _read_saved_hooks) and value:
            found.append(setting.name)
    return list(dict.fromkeys(found))
