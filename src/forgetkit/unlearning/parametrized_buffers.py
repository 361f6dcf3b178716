"""Buffers that belong to a computed weight: the vectors of a spectral norm, the base of an orthogonal matrix."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from forgetkit.unlearning.tensor_write import Undo

Redraw = Callable[[str, str], Tensor | None]
"""Maps a name, and a parameter that got fresh values, to the value that was drawn with that parameter's, if any."""

_STEPS = 15
"""Power iterations after a weight is new, as many as torch's constructor makes."""


def follow_weights(
    model: nn.Module,
    reset: Collection[str],
    undo: Undo,
    redraw: Redraw = lambda name, parameter: None,
    protected: Collection[str] = (),
) -> list[str]:
    """Let such buffers follow the parameters that were ``reset``; return the names of those that changed.

    Those of a weight of which one is ``protected`` stay.
    """
    written: list[str] = []
    parameters = dict(model.named_parameters())
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = [prefix + local for local in module._parameters if prefix + local in reset]
        if not own:
            continue
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm) and f"{prefix}{hook.name}_orig" in own:
                vectors = {f"{prefix}{hook.name}_{side}": module.get_buffer(f"{hook.name}_{side}") for side in "uv"}
                if any(name in protected for name in vectors):
                    continue
                with _recorded(vectors, undo, written):
                    for _ in range(_STEPS):
                        hook.compute_weight(module, do_power_iteration=True)
        if isinstance(module, parametrize.ParametrizationList):
            buffers = {prefix + local: buffer for local, buffer in module.named_buffers() if "." in local}
            if any(name in protected for name in buffers):
                continue
            with _recorded(buffers, undo, written):
                if all(_is_whole(parameters[name], redraw(name, name)) for name in own):
                    _replace(buffers, {name: redraw(name, own[0]) for name in buffers})
                refine_estimates(module)
    return written


def refine_estimates(parts: parametrize.ParametrizationList) -> None:
    """Let parametrisations that estimate something of the weight in train mode do so until it is settled."""
    buffers = [buffer for part in parts.children() for buffer in part.buffers()]
    modes = [(part, part.training) for part in parts.modules()]
    parts.train()
    for _ in range(_STEPS if buffers else 0):
        old = [buffer.clone() for buffer in buffers]
        parts()
        if all(map(torch.equal, buffers, old)):
            break
    for part, training in modes:
        part.training = training


def _is_whole(parameter: Tensor, drawn: Tensor | None) -> bool:
    """Whether a parameter has the fresh value in all its entries."""
    return drawn is not None and torch.equal(parameter, drawn.to(parameter))


def _replace(buffers: Mapping[str, Tensor], values: Mapping[str, Tensor | None]) -> None:
    for name, buffer in buffers.items():
        if (value := values[name]) is not None:
            buffer.copy_(value)


@contextmanager
def _recorded(buffers: Mapping[str, Tensor], undo: Undo, written: list[str]) -> Iterator[None]:
    """Write down which buffers change inside, and how to undo it."""
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    undo.extend(partial(buffer.copy_, before[name]) for name, buffer in buffers.items())
    yield
    written.extend(name for name, buffer in buffers.items() if not torch.equal(buffer, before[name]))
