"""Scoring changes nothing: what a criterion may disturb is put back, what it may not is noticed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from forgetkit.errors import ComponentError, ForgetkitError
from forgetkit.seeding import global_state

_INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = 2**20


@contextmanager
def untouched(model: nn.Module, who: str, seed: int, *, training: bool = False) -> Iterator[None]:
    """Lend ``model`` out in eval mode (or in training mode), without gradients in ``.grad``, outside autocast.

    On leaving, buffers, each module's attributes (training flag, hooks, what it keeps count of),
    ``requires_grad``, ``.grad`` and the global random state are as they were. Parameters are not
    copied (a model may be too large for that): a fingerprint of their bits tells whether one was
    written to, which is a ``ComponentError`` naming ``who`` and the parameter.

    Meanwhile ``seed`` seeds the global random state, so that a shuffling DataLoader gives the same
    batches each time, and backward hooks are off: they may change a gradient or keep a record of it.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    before = {name: fingerprint(p) for name, p in parameters.items()}
    grads = {p: (p.grad, p.requires_grad) for p in parameters.values()}
    buffers = [(b, b.clone()) for b in model.buffers()]
    device = next((p.device.type for p in parameters.values()), "cpu")
    try:
        with (
            attributes_kept(model),
            global_state(seed),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
        ):
            for p in grads:
                p.grad = None
            for module in model.modules():
                module._backward_hooks.clear()
                module._backward_pre_hooks.clear()
            model.train() if training else model.eval()
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if not _same_bits(buffer, value):  # a write, even of the same, would spoil a backward pass under way
                    buffer.copy_(value)
        for p, (grad, requires_grad) in grads.items():
            p.requires_grad_(requires_grad)
            p.grad = grad
    changed = [name for name, p in parameters.items() if fingerprint(p) != before[name]]
    if changed:
        raise ComponentError(f"{who} changed the parameter '{changed[0]}' of the model it was only to look at")


@contextmanager
def blamed(who: str) -> Iterator[None]:
    """What a stranger's code raises becomes a ``ComponentError`` of one line that names ``who`` and the place."""
    try:
        yield
    except ForgetkitError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything, or leave
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ComponentError(f"{who} raised {reason} in {frame.filename}:{frame.lineno}") from error


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """On leaving, each module's attributes are those of before: modes, hooks, counts, which tensor is which buffer."""
    tables = [(table, dict(table)) for module in model.modules() for table in _tables(vars(module))]
    try:
        yield
    finally:
        for table, entries in tables:
            table.clear()
            table.update(entries)


def _tables(attributes: dict[str, Any]) -> list[dict[Any, Any]]:
    """A module's attributes, and those of them that are tables themselves: of hooks, of buffers."""
    return [attributes, *(value for value in attributes.values() if isinstance(value, dict))]


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    """A tensor's entries as integers, so that signs of zero and NaN count."""
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    return real.contiguous().view(_INTEGER_OF_SIZE[real.element_size()])


def fingerprint(tensor: Tensor) -> int:
    """A wrapping sum over a tensor's entries, each one's bits mixed with its position.

    The mixing is one to one, so that a change of a single entry always shows, and not linear, so
    that several changes do not cancel: the signs of (1, -1, -1, 1) turned round do not pass unseen.
    """
    bits = _bits(tensor).flatten()
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, bits.numel(), _PIECE):  # in pieces, so that no second copy of a large tensor is made
        piece = bits[start : start + _PIECE].to(torch.int64)
        where = torch.arange(start, start + piece.numel(), device=bits.device)
        mixed = (piece + where * 0x1E3779B97F4A7C15) * 0x3F58476D1CE4E5B9
        mixed ^= (mixed >> 32) & 0xFFFFFFFF
        total += (mixed * 0x14D049BB133111EB).sum()
    return int(total)
