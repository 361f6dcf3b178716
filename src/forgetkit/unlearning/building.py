"""A network built anew: how, if the network tells, and whether it is the same architecture."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from forgetkit.errors import ComponentError


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile`` and distributed wrappers: it has the same parameters."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def infer_build(model: nn.Module) -> Callable[[], nn.Module] | None:
    """Return how to build ``model`` anew if it holds its own constructor's arguments, or None.

    transformers keeps them in ``config``, Lightning in ``hparams``. Neither library is imported here.
    """
    if _is_instance(model, "transformers", "PreTrainedModel"):
        return partial(_from_config, type(model), model.config)
    if any(_is_instance(model, name, "LightningModule") for name in ("lightning.pytorch", "pytorch_lightning")):
        hyperparameters: Any = model.hparams
        return partial(type(model), **copy.deepcopy(dict(hyperparameters)))
    return None


def _from_config(kind: Callable[[object], nn.Module], config: object) -> nn.Module:
    return kind(copy.deepcopy(config))


def _is_instance(model: nn.Module, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(model, kind)


def require_same_architecture(built: nn.Module, model: nn.Module, what: str) -> None:
    """Compare the names and shapes of all parameters and buffers.

    Raises:
        ComponentError: They differ; the message names the first difference.
    """
    own, new = _shapes(model), _shapes(built)
    for name in [*own, *new]:
        if own.get(name) != new.get(name):
            raise ComponentError(
                f"{what} gives another network: '{name}' {_shape(new, name)} there and {_shape(own, name)} in the "
                "model; build= must give the same architecture"
            )


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return f"has shape {shapes[name]}" if name in shapes else "is missing"


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    tensors: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}
