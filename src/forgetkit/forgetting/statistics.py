"""Running statistics of batch normalisation, once the weights that made them are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from forgetkit.contracts import BnStats
from forgetkit.errors import OptionError
from forgetkit.forgetting.anatomy import frozen
from forgetkit.seeding import global_state


def tracking(model: nn.Module) -> dict[str, _BatchNorm]:
    """The layers that keep running statistics and are trained, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and not frozen(module)
    }


def require_statistics(model: nn.Module, how: BnStats) -> None:
    """``OptionError`` where ``how`` could not act on this model."""
    if how != "keep" and not tracking(model):
        raise OptionError(
            f"bn-stats={how}: {type(model).__name__} has no batch normalisation that keeps running statistics; use keep"
        )


def settle(
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
    layers = tracking(model) if how != "keep" else {}
    if not layers:
        return []
    if how == "recalibrate" and batches is None:
        raise OptionError("bn-stats=recalibrate looks at data: give batches of (inputs, targets)")
    places = {(module, name) for module in layers.values() for name, _ in module.named_buffers(recurse=False)}
    before = [(module, name, buffer, buffer.clone()) for module, name, buffer in _buffers(model)]
    undo.append(lambda: _put_back(before))
    for layer in layers.values():
        layer.reset_running_stats()
    if how == "recalibrate" and batches is not None:
        _measure(model, batches, seed)
        _put_back(place for place in before if place[:2] not in places)
    return [f"{name}.{local}" if name else local for name, part in layers.items() for local, _ in part.named_buffers()]


def _measure(model: nn.Module, batches: Iterable[tuple[Any, Tensor]], seed: int) -> None:
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(module, module.momentum) for module in model.modules() if isinstance(module, _BatchNorm)]
    like = next(p for p in model.parameters() if p.is_floating_point())
    try:
        with global_state(seed):
            update_bn(((_as(inputs, like), targets) for inputs, targets in batches), model)
    except ValueError as error:  # a batch of one sample
        raise OptionError(f"bn-stats=recalibrate: {error}; use larger batches") from error
    finally:  # update_bn gives every module the mode of the whole, and on a failure leaves its momentum
        for module, training in modes:
            module.training = training
        for norm, momentum in momenta:
            norm.momentum = momentum


def _as(inputs: Tensor, like: Tensor) -> Tensor:
    return inputs.to(like) if inputs.is_floating_point() else inputs.to(like.device)


def _buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            yield module, name, buffer


def _put_back(places: Iterable[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    """The values of buffers, and the buffers: running may have put another tensor in the place of one."""
    for module, name, buffer, value in places:
        setattr(module, name, buffer.copy_(value))
