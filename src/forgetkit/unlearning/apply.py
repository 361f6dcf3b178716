"""Apply: write changes in place, to followers too, and start the optimizer's state of reset entries anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from forgetkit.contracts import Change
from forgetkit.errors import ComponentError
from forgetkit.unlearning.followers import NO_FOLLOWERS, Followers
from forgetkit.unlearning.integrity import attribute_errors_to
from forgetkit.unlearning.masks import MaskCallback
from forgetkit.unlearning.optimizer_state import OptimizerStates
from forgetkit.unlearning.report import LayerReport
from forgetkit.unlearning.tensor_checks import all_finite
from forgetkit.unlearning.tensor_parts import counted_here, local_of
from forgetkit.unlearning.tensor_write import Undo, write

_END = object()


@dataclass
class AppliedChanges:
    """What has been written so far."""

    layers: dict[str, LayerReport] = field(default_factory=dict)
    buffers: list[str] = field(default_factory=list)
    optimizer_cleared: int = 0
    followed: int = 0
    """Entries that followers got."""
    changed: int = 0
    """Parameter entries whose value differs from before."""
    held_back: int = 0
    """Entries that a change asked for and that are protected or pruned."""

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
    optimizers: OptimizerStates,
    open_names: Collection[str],
    component_name: str,
    undo: Undo,
    require_ready: Callable[[], None] = lambda: None,
    record_mask: MaskCallback | None = None,
    followers: Followers = NO_FOLLOWERS,
    protected: Mapping[str, Tensor] | None = None,
) -> AppliedChanges:
    """Write θ ← M·θ + (1-M)·ξ for each change (its mask 1-M and value ξ), before the next one is computed.

    Entries outside a mask keep their bits. The write goes through a view in memory order, which works for any memory
    format and which autograd notices; ``flatten()`` loses writes to channels_last weights, ``.data`` bypasses autograd.

    Args:
        model: The model to write to.
        changes: At most one per parameter or buffer.
        optimizers: Start their state anew under each mask.
        open_names: The parameters and buffers that may change.
        component_name: The name of the component that proposes the changes, for messages.
        undo: Receives functions that undo each write.
        require_ready: Is called before each write.
        record_mask: Gets each mask.
        followers: Get each change too.
        protected: Masks of entries that stay as they are, whatever the changes say.

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
                    f"{component_name} proposed a change to '{change.name}', which is frozen, protected or unused"
                )
            if change.name in applied.layers or change.name in applied.buffers:
                raise ComponentError(f"{component_name} proposed two changes to '{change.name}'")
            _require_valid(change, tensor, component_name)
            mask = None if change.mask is None else change.mask.to(tensor.device)
            if protected is not None and change.name in protected:
                open_entries = ~protected[change.name].to(tensor.device)
                allowed = open_entries if mask is None else mask & open_entries
                applied.held_back += (tensor.numel() if mask is None else int(mask.sum())) - int(allowed.sum())
                mask = allowed
            reset, changed = write(tensor, mask, change.value, undo)
            applied.followed += followers.write(change.name, mask, tensor, undo)
            if change.name in buffers:
                applied.buffers.append(change.name)
                continue
            if not is_counted(tensor):
                reset = changed = 0
            applied.layers[change.name] = LayerReport(tensor.numel(), reset)
            applied.changed += changed
            if record_mask is not None:
                record_mask(change.name, mask, tensor.shape)
            cleared = optimizers.reset(change.name, tensor, mask, undo)
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
