"""Compare values to the bit, and find out what a call has changed."""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forgetkit.errors import ComponentError
from forgetkit.seeding import seeded_rng
from forgetkit.system.torch_settings import restored
from forgetkit.testing.promise import Failure


def same_bits(one: Any, other: Any) -> bool:
    """Whether tensors, arrays, mappings, sequences or other values are equal to the bit, signs of zeros included."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bits(one), _bits(other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_bits(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_bits, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return type(one) is type(other) and one.hex() == other.hex()
    return type(one) is type(other) and bool(one == other)


def _bits(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes: they distinguish the zeros by sign, and those of one NaN are equal."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)


def nearly(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree up to rounding; NaN equals NaN."""
    if one.shape != other.shape:
        return False
    scale = float(other.detach().abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def random_state() -> tuple[Any, ...]:
    """Return the global random state of Python, NumPy and torch in a form that compares with ``==``."""
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:], torch.get_rng_state().numpy().tobytes()


@contextmanager
def watch_random_state() -> Iterator[None]:
    """Raise ``Failure`` if the body changes the global random state; nothing else uses this seed."""
    with seeded_rng(0x5EED_0F_A_57A4):
        before = random_state()
        yield
        if random_state() != before:
            raise Failure("it draws from (or seeds) the global random state; draw from the generator that it is given")


@contextmanager
def watch_settings() -> Iterator[None]:
    """Raise ``Failure`` if the body changes a setting of torch or NumPy, and restore it."""
    changed: list[str] = []
    with restored(changed):
        yield
    require_settings(changed)


def require_settings(changed: Sequence[str]) -> None:
    """Raise ``Failure`` if a setting was changed."""
    if changed:
        raise Failure(f"it leaves {', '.join(changed)} changed; set it in a with block, or restore the value before")


def raised_error(error: BaseException) -> str:
    """Describe an exception and where it was raised, in one line; a host's ``ComponentError`` by its cause."""
    if isinstance(error, ComponentError) and error.__cause__ is not None:
        error = error.__cause__
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return f"it raised {text} in {frame.filename}:{frame.lineno}"


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A network at one time: values, gradients, modes, hooks, and the state of its optimizer."""

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    gradients: Mapping[str, tuple[bool, Tensor | None]]
    modes: Mapping[str, bool]
    hooks: Mapping[str, tuple[tuple[int, int], ...]]
    optimizer: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Snapshot:
        """Copy the state of ``model`` and, if there is one, of ``optimizer``."""
        parameters = dict(model.named_parameters())
        return cls(
            parameters={name: p.detach().clone() for name, p in parameters.items()},
            buffers={name: b.detach().clone() for name, b in model.named_buffers()},
            gradients={
                name: (p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in parameters.items()
            },
            modes={name: module.training for name, module in model.named_modules()},
            hooks={name: _hooks(module) for name, module in model.named_modules()},
            optimizer={
                name: {key: value.clone() for key, value in optimizer.state[p].items() if isinstance(value, Tensor)}
                for name, p in parameters.items()
                if optimizer is not None and p in optimizer.state
            },
        )


def _hooks(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return torch's number and the identity of each hook."""
    tables = (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
    return tuple((number, id(hook)) for table in tables for number, hook in table.items())


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names whose values differ."""
    return [name for name in before.keys() | after.keys() if not same_bits(before.get(name), after.get(name))]


def require_same(before: Mapping[str, Any], after: Mapping[str, Any], what: str) -> None:
    """Raise ``Failure`` with the first name whose values differ."""
    names = differing(before, after)
    if names:
        raise Failure(f"{what} '{min(names)}' is not as before")
