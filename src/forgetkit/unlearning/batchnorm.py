"""Running statistics of batch normalisation after a reset of the weights that they were measured with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from forgetkit.contracts import BnStats
from forgetkit.errors import ForgetkitError, InsufficientMemoryError, OptionError
from forgetkit.seeding import seeded_rng
from forgetkit.unlearning.integrity import first_line, preserved_attributes
from forgetkit.unlearning.objective import Objective, copy_part
from forgetkit.unlearning.structure import is_frozen


def tracking_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the trained layers that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and not is_frozen(module)
    }


def require_statistics(model: nn.Module, how: BnStats) -> None:
    """Raise ``OptionError`` if ``how`` has nothing to act on in this model."""
    if how != "keep" and not tracking_layers(model):
        raise OptionError(
            f"bn-stats={how}: {type(model).__name__} has no batch normalisation that keeps running statistics; use keep"
        )


def refresh_bn_stats(
    model: nn.Module,
    how: BnStats,
    batches: Iterable[Any] | None,
    undo: list[Callable[[], object]],
    seed: int,
    objective: Objective | None = None,
) -> list[str]:
    """Keep the running statistics, reset them, or recalibrate them on ``batches``; return the buffers written.

    Recalibration takes the mean over the batches of each batch's statistics in training mode. Frozen layers keep
    theirs.
    """
    layers = tracking_layers(model) if how != "keep" else {}
    if not layers:
        return []
    if how == "recalibrate" and batches is None:
        raise OptionError("bn-stats=recalibrate needs data: give batches of (inputs, targets)")
    own = {buffer for layer in layers.values() for buffer in layer.buffers()}
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    undo.append(lambda: _restore_buffers(before))
    for layer in layers.values():
        layer.reset_running_stats()
    if how == "recalibrate" and batches is not None:
        _recalibrate(model, batches, seed, objective or Objective())
        _restore_buffers((buffer, value) for buffer, value in before if buffer not in own)
    return [local for name, layer in layers.items() for local, _ in layer.named_buffers(prefix=name)]


def _recalibrate(model: nn.Module, batches: Iterable[Any], seed: int, objective: Objective) -> None:
    """Run ``update_bn``, which does not restore modes and momenta if it fails."""
    like = next(p for p in model.parameters() if p.is_floating_point())

    def inputs_of(batch: Any) -> Any:
        return copy_part(objective.parts(batch)[0], like.device, like.dtype)

    with preserved_attributes(model), seeded_rng(seed), torch.autocast(like.device.type, enabled=False):
        try:
            update_bn(map(inputs_of, batches), _Running(model, objective))
        except InsufficientMemoryError:
            raise
        except ForgetkitError as error:
            remedy = "; use larger batches" if isinstance(error.__cause__, ValueError) else ""  # a batch of one sample
            reason = first_line(error.__cause__ or error)
            raise OptionError(f"bn-stats=recalibrate: in training mode the model fails: {reason}{remedy}") from error


class _Running(nn.Module):
    """A network that takes the inputs of an objective, for ``update_bn``."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, inputs: Any) -> None:
        """Run the network."""
        self._objective.run(self.model, inputs, "bn-stats=recalibrate")


def _restore_buffers(buffers: Iterable[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in buffers:
        buffer.copy_(value)
