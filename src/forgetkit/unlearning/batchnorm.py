"""Running statistics of batch normalisation, once the weights that made them are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from forgetkit.contracts import BnStats
from forgetkit.errors import OptionError
from forgetkit.seeding import seeded_rng
from forgetkit.unlearning.integrity import preserved_attributes
from forgetkit.unlearning.structure import is_frozen


def tracking_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The layers that keep running statistics and are trained, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and not is_frozen(module)
    }


def require_statistics(model: nn.Module, how: BnStats) -> None:
    """``OptionError`` where ``how`` could not act on this model."""
    if how != "keep" and not tracking_layers(model):
        raise OptionError(
            f"bn-stats={how}: {type(model).__name__} has no batch normalisation that keeps running statistics; use keep"
        )


def refresh_bn_stats(
    model: nn.Module,
    how: BnStats,
    batches: Iterable[tuple[Any, Tensor]] | None,
    undo: list[Callable[[], None]],
    seed: int,
) -> list[str]:
    """Leave the statistics, start them anew, or measure them again on ``batches``; return the buffers written to.

    Measured again means: the mean over the batches of what each gives in training mode, without a step. Layers
    that are frozen keep theirs.
    """
    layers = tracking_layers(model) if how != "keep" else {}
    if not layers:
        return []
    if how == "recalibrate" and batches is None:
        raise OptionError("bn-stats=recalibrate looks at data: give batches of (inputs, targets)")
    own = {buffer for layer in layers.values() for buffer in layer.buffers()}
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    undo.append(lambda: _restore_buffers(before))
    for layer in layers.values():
        layer.reset_running_stats()
    if how == "recalibrate" and batches is not None:
        _measure(model, batches, seed)
        _restore_buffers((buffer, value) for buffer, value in before if buffer not in own)
    return [f"{name}.{local}" if name else local for name, part in layers.items() for local, _ in part.named_buffers()]


def _measure(model: nn.Module, batches: Iterable[tuple[Any, Tensor]], seed: int) -> None:
    """The whole model runs in training mode; on a failure ``update_bn`` leaves modes and momenta behind."""
    like = next(p for p in model.parameters() if p.is_floating_point())
    with preserved_attributes(model), seeded_rng(seed), torch.autocast(like.device.type, enabled=False):
        try:
            update_bn(((_cast_like(inputs, like), targets) for inputs, targets in batches), model)
        except (ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            remedy = "; use larger batches" if isinstance(error, ValueError) else ""  # a batch of one sample
            raise OptionError(f"bn-stats=recalibrate: in training mode the model fails: {reason}{remedy}") from error


def _cast_like(inputs: Tensor, like: Tensor) -> Tensor:
    return inputs.to(like) if inputs.is_floating_point() else inputs.to(like.device)


def _restore_buffers(buffers: Iterable[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in buffers:
        buffer.copy_(value)
