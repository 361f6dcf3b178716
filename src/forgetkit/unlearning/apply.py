"""Apply: write changes in place, and clear the optimizer's state of the old values under the mask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from forgetkit.contracts import Change
from forgetkit.errors import ComponentError
from forgetkit.unlearning.integrity import attribute_errors_to
from forgetkit.unlearning.masks import MaskCallback, pack_mask, unpack_mask
from forgetkit.unlearning.report import LayerReport
from forgetkit.unlearning.tensor_checks import all_finite, order_in_memory
from forgetkit.unlearning.tensor_parts import counted_here, local_like, local_of

Undo = list[Callable[[], object]]
_END = object()
_PIECE = 2**20


@dataclass
class AppliedChanges:
    """What has been written so far."""

    layers: dict[str, LayerReport] = field(default_factory=dict)
    buffers: list[str] = field(default_factory=list)
    optimizer_cleared: int = 0
    changed: int = 0
    """Parameter entries whose value differs from before."""

    @property
    def reset(self) -> int:
        """Parameter entries that got a value."""
        return sum(layer.reset for layer in self.layers.values())


@contextmanager
def all_or_nothing() -> Iterator[Undo]:
    """Yield a list of functions that undo what is done inside; a failure calls them, the last first.

    Until then they hold the old values of what is overwritten, and no others.
    """
    undo: Undo = []
    with torch.no_grad(), ExitStack() as calls:  # calls each, even if another fails
        try:
            yield undo
        except BaseException:
            for put_back in undo:
                calls.callback(put_back)
            raise


def apply(
    model: nn.Module,
    changes: Iterable[Change],
    optimizer: Optimizer | None,
    open_names: Collection[str],
    component_name: str,
    undo: Undo,
    require_ready: Callable[[], None] = lambda: None,
    record_mask: MaskCallback | None = None,
) -> AppliedChanges:
    """Write θ ← M·θ + (1-M)·ξ for each change (its mask 1-M and value ξ), before the next one is computed.

    Entries outside a mask keep their bits. The write goes through a view in memory order, which works for any memory
    format and which autograd notices; ``flatten()`` loses writes to channels_last weights, ``.data`` bypasses autograd.

    Args:
        model: The model to write to.
        changes: At most one per parameter or buffer.
        optimizer: Clear its state under each mask; None: leave it.
        open_names: The parameters and buffers that may change.
        component_name: The name of the component that proposes the changes, for messages.
        undo: Receives functions that undo each write.
        require_ready: Is called before each write.
        record_mask: Gets each mask.

    Raises:
        ComponentError: If a change is not valid.
    """
    applied = AppliedChanges()
    parameters, buffers, is_counted = dict(model.named_parameters()), dict(model.named_buffers()), counted_here(model)
    if not isinstance(changes, Iterable):
        raise ComponentError(f"{component_name} proposed {type(changes).__name__}, not changes one after the other")
    iterator = iter(changes)
    # A generator is closed before anything is undone, so that it leaves ``context.probe()``.
    with closing(iterator) if isinstance(iterator, Generator) else nullcontext():
        while True:
            with attribute_errors_to(component_name):
                change = next(iterator, _END)
            if change is _END:
                return applied
            require_ready()
            if not isinstance(change, Change):
                raise ComponentError(f"{component_name} proposed {type(change).__name__}, not a Change")
            tensor = parameters.get(change.name, buffers.get(change.name))
            if tensor is None:
                raise ComponentError(
                    f"{component_name} proposed a change to '{change.name}', which the model does not have"
                )
            if change.name not in open_names:
                raise ComponentError(
                    f"{component_name} proposed a change to '{change.name}', which is frozen or unused"
                )
            if change.name in applied.layers or change.name in applied.buffers:
                raise ComponentError(f"{component_name} proposed two changes to '{change.name}'")
            _require_valid(change, tensor, component_name)
            mask = None if change.mask is None else change.mask.to(tensor.device)
            reset, changed = _write(tensor, mask, change.value, undo)
            if change.name in buffers:
                applied.buffers.append(change.name)
                continue
            if not is_counted(tensor):
                reset = changed = 0
            applied.layers[change.name] = LayerReport(tensor.numel(), reset)
            applied.changed += changed
            if record_mask is not None:
                record_mask(change.name, mask, tensor.shape)
            if optimizer is not None:
                cleared = clear_state(optimizer, tensor, mask, undo)
                applied.optimizer_cleared += cleared if is_counted(tensor) else 0


def _require_valid(change: Change, tensor: Tensor, component_name: str) -> None:
    shape, mask, value = tuple(tensor.shape), change.mask, change.value
    if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == shape):
        raise ComponentError(f"{component_name}: the mask for '{change.name}' is not a bool tensor of shape {shape}")
    if not isinstance(value, Tensor):
        raise ComponentError(f"{component_name}: the value for '{change.name}' is {type(value).__name__}, not a tensor")
    if tuple(value.shape) != shape:
        raise ComponentError(
            f"{component_name}: the value for '{change.name}' has shape {tuple(value.shape)}, not {shape}"
        )
    if value.is_floating_point() and not all_finite(local_of(value)):
        raise ComponentError(f"{component_name}: the value for '{change.name}' holds NaN or infinity")


def _write(tensor: Tensor, mask: Tensor | None, value: Tensor | None, undo: Undo) -> tuple[int, int]:
    """Write ``value`` (None: zero) under ``mask``; return how many entries were written and how many changed.

    Positions are computed in memory order, a piece at a time: an index takes eight bytes. The old entries of each piece
    are kept before it is written.
    """
    mask, value, tensor = local_like(mask, tensor), local_like(value, tensor), local_of(tensor)
    flat = _FlatView(tensor)
    if mask is None:
        old = tensor.clone()
        undo.append(partial(tensor.copy_, old))
        tensor.copy_(torch.zeros_like(tensor) if value is None else value)
        pairs = zip(flat.of(tensor).split(_PIECE), flat.of(old).split(_PIECE), strict=True)
        return tensor.numel(), sum(_count_differing(new, before) for new, before in pairs)
    old_pieces, written, changed = list[tuple[Tensor, Tensor]](), 0, 0
    undo.append(lambda: _restore_pieces(flat, old_pieces))
    with flat.writable() as entries:
        values = None if value is None else flat.of(value).split(_PIECE)
        for at, (piece, where) in enumerate(zip(entries.split(_PIECE), flat.of(mask).split(_PIECE), strict=True)):
            positions = _true_positions(where)
            old = piece[positions]
            new = torch.zeros_like(old) if values is None else values[at].to(piece.device)[positions].to(piece)
            old_pieces.append((pack_mask(where), old))
            written, changed = written + len(positions), changed + _count_differing(new, old)
            piece.index_copy_(0, positions, new)
    return written, changed


def _restore_pieces(flat: _FlatView, old_pieces: list[tuple[Tensor, Tensor]]) -> None:
    """Undo the writes to the first pieces, of each of which there are the packed mask and the old entries."""
    with flat.writable() as entries:
        for piece, (bits, old) in zip(entries.split(_PIECE), old_pieces, strict=False):
            piece.index_copy_(0, _true_positions(unpack_mask(bits, piece.shape)), old)


def _count_differing(new: Tensor, old: Tensor) -> int:
    return int((new != old).sum())


def _true_positions(mask: Tensor) -> Tensor:
    """Return the positions at which a flat mask is true; numpy is twice as fast on the CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().flatten()


class _FlatView:
    """A tensor's entries in one dimension, in memory order."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._order = order_in_memory(tensor)

    def of(self, other: Tensor) -> Tensor:
        """Return the entries of a tensor of the same shape, in the same order."""
        return other.detach().permute(self._order).reshape(-1)

    @contextmanager
    def writable(self) -> Iterator[Tensor]:
        """Yield a view of the tensor's own entries, or, if it has gaps, a copy that is written back on leaving."""
        permuted = self._tensor.detach().permute(self._order)
        entries = permuted.reshape(-1)
        yield entries
        if not permuted.is_contiguous():
            permuted.copy_(entries.view(permuted.shape))


def clear_state(optimizer: Optimizer, parameter: Tensor, mask: Tensor | None, undo: Undo) -> int:
    """Zero the per-entry state of ``parameter`` under ``mask``; return the number of entries.

    Without a mask the whole state is dropped, step count included, and the optimizer starts it anew. Under a mask a
    scalar step count stays, since it belongs to the kept entries too, and so does state that is not per entry
    (Adafactor's rows and columns).
    """
    if parameter not in optimizer.state:
        return 0
    if mask is None and isinstance(optimizer, SGD) and optimizer.defaults.get("fused"):
        # Fused SGD fails if only some parameters have momentum; momentum of zeros is a fresh start too.
        mask = torch.ones_like(parameter, dtype=torch.bool)
    per_entry = [
        value
        for key, value in optimizer.state[parameter].items()
        if key != "step" and isinstance(value, Tensor) and value.shape == parameter.shape
    ]
    if mask is None:
        state = optimizer.state.pop(parameter)
        undo.append(lambda: optimizer.state.__setitem__(parameter, state))
        return sum(local_of(value).numel() for value in per_entry)
    return sum(_write(value, mask.to(value.device), None, undo)[0] for value in per_entry)


def clear_all_state(optimizer: Optimizer, model: nn.Module, undo: Undo) -> int:
    """Drop the state of all the model's parameters, as a new optimizer would; return the number of entries."""
    return sum(clear_state(optimizer, parameter, None, undo) for parameter in model.parameters())
