"""Changes written in place, and the optimizer's memory of the old values cleared under the mask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from forgetkit.contracts import Change
from forgetkit.errors import ComponentError
from forgetkit.unlearning.integrity import all_finite, attribute_errors_to, order_in_memory
from forgetkit.unlearning.masks import MaskCallback, pack_mask, unpack_mask
from forgetkit.unlearning.report import LayerReport

Undo = list[Callable[[], None]]
_END = object()
_PIECE = 2**20


@dataclass
class AppliedChanges:
    """What has been changed so far."""

    layers: dict[str, LayerReport] = field(default_factory=dict)
    buffers: list[str] = field(default_factory=list)
    optimizer_cleared: int = 0
    changed: int = 0
    """Parameter entries whose value is another than before."""


@contextmanager
def all_or_nothing() -> Iterator[Undo]:
    """Everything that is done inside stays, or nothing does: a failure calls what the list holds, the last first.

    For that, the old values of what is overwritten are kept until the end, and no others.
    """
    undo: Undo = []
    with torch.no_grad(), ExitStack() as every:  # in which one that fails keeps no other from being called
        try:
            yield undo
        except BaseException:
            for put_back in undo:
                every.callback(put_back)
            raise


def apply(
    model: nn.Module,
    changes: Iterable[Change],
    optimizer: Optimizer | None,
    open_names: Collection[str],
    who: str,
    undo: Undo,
    require_ready: Callable[[], None] = lambda: None,
    record_mask: MaskCallback | None = None,
) -> AppliedChanges:
    """Write each change before the next is asked for; entries outside a mask keep their bits.

    Written through a view in the order of memory, which holds for any memory format and which autograd notices;
    ``flatten()`` and ``.data`` would lose the write on channels_last weights, or bypass autograd.
    """
    tally = AppliedChanges()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    if not isinstance(changes, Iterable):
        raise ComponentError(f"{who} proposed {type(changes).__name__}, not changes one after the other")
    with _iterate_changes(changes) as one_by_one:
        while True:
            with attribute_errors_to(who):
                change = next(one_by_one, _END)
            if change is _END:
                break
            require_ready()
            if not isinstance(change, Change):
                raise ComponentError(f"{who} proposed {type(change).__name__}, not a Change")
            tensor = parameters.get(change.name, buffers.get(change.name))
            if tensor is None:
                raise ComponentError(f"{who} proposed a change to '{change.name}', which the model does not have")
            if change.name not in open_names:
                raise ComponentError(f"{who} proposed a change to '{change.name}', which is frozen or unused")
            if change.name in tally.layers or change.name in tally.buffers:
                raise ComponentError(f"{who} proposed two changes to '{change.name}'")
            value = _validate_change(change, tensor, who)
            mask = None if change.mask is None else change.mask.to(tensor.device)
            count, changed = _write(tensor, mask, value, undo)
            if change.name in buffers:
                tally.buffers.append(change.name)
                continue
            tally.layers[change.name] = LayerReport(tensor.numel(), count)
            tally.changed += changed
            if record_mask is not None:
                record_mask(change.name, mask, tensor.shape)
            if optimizer is not None:
                tally.optimizer_cleared += clear_state(optimizer, tensor, mask, undo)
    return tally


@contextmanager
def _iterate_changes(changes: Iterable[Change]) -> Iterator[Iterator[Change]]:
    """The changes one by one. What a generator holds open (the lent model) is given back before anything is undone."""
    one_by_one = iter(changes)
    with closing(one_by_one) if isinstance(one_by_one, Generator) else nullcontext():
        yield one_by_one


def _write(tensor: Tensor, mask: Tensor | None, value: Tensor | None, undo: Undo) -> tuple[int, int]:
    """Give the entries under ``mask`` their value (None: zero); return how many they are, and how many it changed.

    Each piece's old entries are kept before it is written to. Places are looked up in the order of memory, a piece at
    a time: an index takes eight bytes.
    """
    if mask is None:
        whole = tensor.clone()
        undo.append(lambda: _copy(tensor, whole))
        _copy(tensor, torch.zeros_like(tensor) if value is None else value)
        line = _FlatView(tensor)
        pairs = zip(line.of(tensor).split(_PIECE), line.of(whole).split(_PIECE), strict=True)
        return tensor.numel(), sum(_count_differing(new, old) for new, old in pairs)
    line, kept, count, changed = _FlatView(tensor), list[tuple[Tensor, Tensor]](), 0, 0
    undo.append(lambda: _restore_pieces(line, kept))
    with line.written() as entries:
        news = None if value is None else line.of(value).split(_PIECE)
        for at, (part, where) in enumerate(zip(entries.split(_PIECE), line.of(mask).split(_PIECE), strict=True)):
            places = _true_positions(where)
            old = part[places]
            new = torch.zeros_like(old) if news is None else news[at].to(part.device)[places].to(part)
            kept.append((pack_mask(where), old))
            count, changed = count + len(places), changed + _count_differing(new, old)
            part.index_copy_(0, places, new)
    return count, changed


def _restore_pieces(line: _FlatView, kept: list[tuple[Tensor, Tensor]]) -> None:
    """Undo what was written to as many pieces as ``kept`` has: of each the packed mask and the old entries."""
    with line.written() as entries:
        for part, (bits, old) in zip(entries.split(_PIECE), kept, strict=False):
            part.index_copy_(0, _true_positions(unpack_mask(bits, part.shape)), old)


def _copy(tensor: Tensor, value: Tensor) -> None:
    tensor.copy_(value)


def _count_differing(new: Tensor, old: Tensor) -> int:
    """How many entries are other values."""
    return int((new != old).sum())


def _true_positions(mask: Tensor) -> Tensor:
    """Where a bool tensor of one dimension is true."""
    if mask.device.type == "cpu":  # twice as fast as torch
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().flatten()


class _FlatView:
    """A tensor's entries in a line, as they lie in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._order = order_in_memory(tensor)

    def of(self, other: Tensor) -> Tensor:
        """The entries of a tensor of the same shape, in the same order."""
        return other.detach().permute(self._order).reshape(-1)

    @contextmanager
    def written(self) -> Iterator[Tensor]:
        """The tensor's own entries, to be written to: a view of them, or where it has gaps a copy to put back."""
        turned = self._tensor.detach().permute(self._order)
        entries = turned.reshape(-1)
        yield entries
        if not turned.is_contiguous():
            turned.copy_(entries.view(turned.shape))


def clear_state(optimizer: Optimizer, parameter: Tensor, mask: Tensor | None, undo: Undo) -> int:
    """Zero the per-entry state of ``parameter`` under ``mask``; return how many entries that were.

    Without a mask the whole state goes, step count included, and the optimizer starts it anew.
    Under a mask a scalar step count stays, since it belongs to the kept entries too; so does state that is
    not per entry (Adafactor's rows and columns).
    """
    if parameter not in optimizer.state:
        return 0
    if mask is None and isinstance(optimizer, SGD) and optimizer.defaults.get("fused"):
        # Its step fails where some parameters have their momentum and others none; one of zeros is a new start too.
        mask = torch.ones_like(parameter, dtype=torch.bool)
    per_entry = [
        value
        for key, value in optimizer.state[parameter].items()
        if key != "step" and isinstance(value, Tensor) and value.shape == parameter.shape
    ]
    if mask is None:
        state = optimizer.state.pop(parameter)
        undo.append(lambda: optimizer.state.__setitem__(parameter, state))
        return sum(value.numel() for value in per_entry)
    return sum(_write(value, mask.to(value.device), None, undo)[0] for value in per_entry)


def clear_all_state(optimizer: Optimizer, model: nn.Module, undo: Undo) -> int:
    """Drop the whole state of the model's parameters, as a new optimizer would; return how many entries that were."""
    return sum(clear_state(optimizer, parameter, None, undo) for parameter in model.parameters())


def _validate_change(change: Change, tensor: Tensor, who: str) -> Tensor:
    shape, mask, value = tuple(tensor.shape), change.mask, change.value
    if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == shape):
        raise ComponentError(f"{who}: the mask for '{change.name}' is not a bool tensor of shape {shape}")
    if not isinstance(value, Tensor):
        raise ComponentError(f"{who}: the value for '{change.name}' is {type(value).__name__}, not a tensor")
    if tuple(value.shape) != shape:
        raise ComponentError(f"{who}: the value for '{change.name}' has shape {tuple(value.shape)}, not {shape}")
    if value.is_floating_point() and not all_finite(value):
        raise ComponentError(f"{who}: the value for '{change.name}' holds NaN or infinity")
    return value
