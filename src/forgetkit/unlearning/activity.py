"""The inputs of modules in a forward pass, and the activity of units in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from forgetkit.contracts import UnitGroup


@contextmanager
def capture_inputs(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that receives the first input of each named module while the model runs, by the module's name."""
    captured: dict[str, Tensor] = {}

    def capture(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            first = next(iter((*args, *kwargs.values())), None)
            if isinstance(first, Tensor):
                captured.setdefault(name, first.detach())

        return hook

    with ExitStack() as hooks:
        for name in dict.fromkeys(names):
            module = model.get_submodule(name)
            hooks.enter_context(module.register_forward_pre_hook(capture(name), with_kwargs=True))
        yield captured


def activity_in(
    groups: Sequence[UnitGroup], model: nn.Module, captured: Mapping[str, Tensor], batch: int
) -> dict[str, Tensor]:
    """Return what the readers of each group saw of it: float32 ``(batch, size, positions)`` by the group's name.

    A reader that did not run, or whose input is not a multiple of ``batch``, is left out.
    """
    activity = {}
    for group in groups:
        views = []
        for slice_, reader in zip(group.outgoing, group.readers, strict=True):
            value = captured.get(reader)
            dim = 1 if isinstance(model.get_submodule(reader), _ConvNd) else -1
            if value is None or value.numel() % (batch * value.shape[dim]) or len(value) % batch:
                continue
            own = value.movedim(dim, -1)[..., slice_.start : slice_.start + group.size * slice_.repeat]
            by_sample = own.reshape(batch, -1, group.size, slice_.repeat)
            views.append(by_sample.transpose(1, 2).flatten(2).float())
        if views:
            activity[group.name] = torch.cat(views, dim=2)
    return activity
