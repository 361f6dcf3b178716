"""Scoring changes nothing: state is restored, changed parameters are detected, errors name the component."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

from forgetkit.errors import ComponentError, ForgetkitError, OptionError
from forgetkit.seeding import seeded_rng
from forgetkit.system.memory import translate_oom
from forgetkit.system.torch_settings import scoring_settings, settings_restored
from forgetkit.unlearning.fingerprints import fingerprints, same_bits
from forgetkit.unlearning.support import require_supported
from forgetkit.unlearning.tensor_checks import order_in_memory
from forgetkit.unlearning.tensor_parts import local_of

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")
_TORCH = Path(torch.__file__).parent


@contextmanager
def read_only(model: nn.Module, component_name: str, seed: int, *, training: bool = False) -> Iterator[None]:
    """Give a component read-only access: :func:`assert_params_unchanged` and :func:`restore_state` in one."""
    with assert_params_unchanged(model, component_name), restore_state(model, seed, training=training):
        yield


@contextmanager
def assert_params_unchanged(model: nn.Module, component_name: str) -> Iterator[None]:
    """On leaving, raise ``ComponentError`` with the component and the parameter if a parameter has other bits.

    Parameters are fingerprinted, not copied: a copy would double a large model.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    forms = {name: (p.shape, p.dtype) for name, p in parameters.items()}
    orders = {name: order_in_memory(local_of(p)) for name, p in parameters.items()}  # in which reading needs no copy

    def fingerprints_of(names: Iterable[str]) -> dict[str, int]:
        prints = fingerprints(local_of(parameters[name]).detach().permute(orders[name]) for name in names)
        return dict(zip(names, prints, strict=True))

    before = fingerprints_of(parameters)
    yield
    after = fingerprints_of([name for name, p in parameters.items() if (p.shape, p.dtype) == forms[name]])
    for name in parameters:
        if after.get(name) != before[name]:
            raise ComponentError(f"{component_name} changed the parameter '{name}': it may only read the model")


@contextmanager
def restore_state(model: nn.Module, seed: int, *, training: bool = False) -> Iterator[None]:
    """Put ``model`` into eval (or training) mode, without ``.grad`` and outside autocast; restore its state on leaving.

    Restored are buffers, each module's attributes (training flag, hooks, counters), ``requires_grad``, ``.grad`` and
    the global random state. Inside, ``seed`` seeds that state, so that a shuffling DataLoader gives the same batches
    each time, and backward hooks are off: they may change a gradient or record it.
    """
    parameters = list(model.parameters())
    grads = {p: (p.grad, p.requires_grad) for p in parameters}
    buffers = [(b, b.clone()) for b in model.buffers()]
    device = next((p.device.type for p in parameters), "cpu")
    try:
        with (
            preserved_attributes(model),
            seeded_rng(seed),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
        ):
            for p in grads:
                p.grad = None
            for module in model.modules():
                module._backward_hooks.clear()
                module._backward_pre_hooks.clear()
            _set_mode(model, training)
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if not same_bits(
                    local_of(buffer), local_of(value)
                ):  # even a write of equal bits would spoil a backward pass in progress
                    buffer.copy_(value)
        for p, (grad, requires_grad) in grads.items():
            p.requires_grad_(requires_grad)
            p.grad = grad


def _set_mode(model: nn.Module, training: bool) -> None:
    try:
        model.train(training)
    except Exception as error:  # a network may refuse, as those of torch.export do
        mode = "train" if training else "eval"
        raise OptionError(
            f"{type(model).__name__} cannot be put into {mode} mode ({first_line(error)}): pass the network that it "
            "was made from"
        ) from error


@contextmanager
def preserved_attributes(model: nn.Module) -> Iterator[None]:
    """Restore each module's attributes on leaving: modes, hooks, counters, and which tensor is which buffer."""
    tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    for module in model.modules():
        attributes = vars(module)
        nested = (value for value in attributes.values() if isinstance(value, dict))  # of hooks, of buffers
        tables.extend((table, dict(table)) for table in (attributes, *nested))
    try:
        yield
    finally:
        for table, entries in tables:
            table.clear()
            table.update(entries)


def hooks_on(model: nn.Module) -> dict[tuple[str, int], str]:
    """Return each hook on ``model`` or inside it: the module's name by hook table and torch's number."""
    return {
        (table, number): name
        for name, module in model.named_modules()
        for table in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
        for number in getattr(module, table)
    }


def scoring_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype that ``model`` is scored in: float64 if a parameter has it, else float32."""
    return torch.float64 if any(p.dtype == torch.float64 for p in model.parameters()) else torch.float32


def with_network_settings(
    function: Callable[Concatenate[nn.Module, _Params], _Result],
) -> Callable[Concatenate[nn.Module, _Params], _Result]:
    """Call ``function`` inside the scoring settings of its first argument, a network."""

    @functools.wraps(function)
    def inside(model: nn.Module, /, *args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        require_supported(model)
        with scoring_settings(scoring_dtype(model)):
            return function(model, *args, **kwargs)

    return inside


@contextmanager
def component_call(component_name: str) -> Iterator[None]:
    """Call a component: attribute its errors to it and restore the settings that it changes."""
    with attribute_errors_to(component_name), settings_restored(component_name):
        yield


@contextmanager
def attribute_errors_to(component_name: str) -> Iterator[None]:
    """Turn any error of a component into a one-line ``ComponentError`` that names ``component_name`` and the place."""
    try:
        with translate_oom():
            yield
    except ForgetkitError:
        raise
    except (Exception, SystemExit) as error:  # a component may raise anything, or exit
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise ComponentError(f"{component_name} raised {reason} in {error_location(error)}; repair it there") from error


def error_location(error: BaseException) -> str:
    """Return FILE:LINE of an error: the innermost frame outside torch."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not Path(frame.filename).is_relative_to(_TORCH)]
    frame = (outside or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
