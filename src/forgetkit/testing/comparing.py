"""Telling whether two things are the same, and whether anything was left behind."""

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
    """Whether two values are equal to the bit, the sign of a zero too: tensors, arrays, mappings and sequences."""
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
    """A tensor's bytes, which tell zeros by their sign and are equal to themselves where they mean NaN."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)


def nearly(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree up to rounding, NaN like NaN."""
    if one.shape != other.shape:
        return False
    scale = float(other.detach().abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def random_state() -> tuple[Any, ...]:
    """The global random state of Python, NumPy and torch, to be compared."""
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:], torch.get_rng_state().numpy().tobytes()


@contextmanager
def watch_random_state() -> Iterator[None]:
    """:class:`Failure` where the global random state, seeded as nobody else would, is another on leaving."""
    with seeded_rng(0x5EED_0F_A_57A4):
        before = random_state()
        yield
        if random_state() != before:
            raise Failure(
                "it draws from (or seeds) the global random state; draw from the generator that is handed over"
            )


@contextmanager
def watch_settings() -> Iterator[None]:
    """:class:`Failure` where a setting of torch or NumPy is another on leaving; it is put back."""
    changed: list[str] = []
    with restored(changed):
        yield
    require_settings(changed)


def require_settings(changed: Sequence[str]) -> None:
    """:class:`Failure` where a setting was changed."""
    if changed:
        raise Failure(f"it leaves {', '.join(changed)} changed; set it in a with block, or put back what was there")


def raised_error(error: BaseException) -> str:
    """What was raised and where, in one line; where a host has named the one who raised it, what that one raised."""
    if isinstance(error, ComponentError) and error.__cause__ is not None:
        error = error.__cause__
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return f"it raised {text} in {frame.filename}:{frame.lineno}"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A network as it was: values, gradients, modes, hooks."""

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    gradients: Mapping[str, tuple[bool, Tensor | None]]
    modes: Mapping[str, bool]
    hooks: Mapping[str, tuple[tuple[int, int], ...]]

    @classmethod
    def of(cls, model: nn.Module) -> Snapshot:
        """``model`` now."""
        return cls(
            parameters={name: p.detach().clone() for name, p in model.named_parameters()},
            buffers={name: b.detach().clone() for name, b in model.named_buffers()},
            gradients={
                name: (p.requires_grad, None if p.grad is None else p.grad.clone())
                for name, p in model.named_parameters()
            },
            modes={name: module.training for name, module in model.named_modules()},
            hooks={name: _hooks(module) for name, module in model.named_modules()},
        )


def _hooks(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Each hook by the number that torch gave it, and its identity."""
    tables = (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
    return tuple((number, id(hook)) for table in tables for number, hook in table.items())


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names under which the two hold something else."""
    return [name for name in before.keys() | after.keys() if not same_bits(before.get(name), after.get(name))]


def require_same(before: Mapping[str, Any], after: Mapping[str, Any], what: str) -> None:
    """:class:`Failure` where something differs, with the first name of it."""
    names = differing(before, after)
    if names:
        raise Failure(f"{what} '{min(names)}' is another than before")
