"""A network built anew: how, if the network tells, and whether it is the same architecture."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from forgetkit.errors import ComponentError, OptionError

_WRAPPED = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile``, ``DataParallel``, DDP and ``AveragedModel``, nested or not."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, _WRAPPED):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def lookup(state: Mapping[str, Tensor] | None, what: str) -> Callable[[str], Tensor] | None:
    """Return a function from a parameter's name to its entry in ``state``, whichever of both was saved in a wrapper.

    Args:
        state: A ``state_dict()``, of the network or of a wrapper of it.
        what: The argument's name in messages.

    Raises:
        OptionError: If ``state`` is no mapping.
    """
    if state is None:
        return None
    if not isinstance(state, Mapping):
        raise OptionError(f"{what}= takes copies of state_dict(), not {type(state).__name__}")
    readings = _readings(state)

    def find(name: str) -> Tensor:
        inner = _without_compile(name)
        found = {keys[inner] for keys in readings if inner in keys}
        if len(found) != 1:
            raise KeyError(name)
        return state[found.pop()]

    return find


def _readings(state: Mapping[str, Tensor]) -> list[dict[str, str]]:
    """The keys of ``state`` by the names that they have in the network, in each way to read them.

    ``module.`` in front of all keys is a wrapper's, or a child's: what both ways find is not known.
    """
    keys: dict[str, str] = {}
    for key in state:
        if _without_compile(key) in keys:
            return [{key: key for key in state}]
        keys[_without_compile(key)] = key
    readings = [keys]
    while (inner := [name for name in readings[-1] if name != "n_averaged"]) and all(
        name.startswith("module.") for name in inner
    ):
        readings.append({name.removeprefix("module."): readings[-1][name] for name in inner})
    return readings


def _without_compile(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def infer_build(model: nn.Module) -> Callable[[], nn.Module] | None:
    """Return how to build ``model`` anew if it holds its own constructor's arguments, or None.

    transformers keeps them in ``config``, Lightning in ``hparams``. Neither library is imported here.
    """
    if is_instance(model, "transformers", "PreTrainedModel"):
        return partial(_from_config, type(model), model.config)
    if any(is_instance(model, name, "LightningModule") for name in ("lightning.pytorch", "pytorch_lightning")):
        hyperparameters: Any = model.hparams
        return partial(type(model), **copy.deepcopy(dict(hyperparameters)))
    return None


def _from_config(kind: Callable[[object], nn.Module], config: object) -> nn.Module:
    return kind(copy.deepcopy(config))


def is_instance(value: object, module: str, name: str) -> bool:
    """Whether ``value`` is an instance of a class of ``module``; False if nobody has imported that module."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


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
