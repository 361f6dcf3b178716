"""A network built anew: how, if the network tells, and whether it is the same architecture."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

from forgetkit.errors import ComponentError, OptionError

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile``, distributed wrappers and averages: it has the same parameters."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, _WRAPPERS):
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


@dataclass(frozen=True)
class InferredBuild:
    """Builds a network anew from the arguments that it holds itself.

    Attributes:
        kind: The network's class.
        source: What holds the arguments, such as ``"config"``.
        make: Builds it.
    """

    kind: type
    source: str
    make: Callable[[], nn.Module]

    def __call__(self) -> nn.Module:
        """Build the network.

        Raises:
            ComponentError: If its constructor fails.
        """
        try:
            return self.make()
        except Exception as error:  # a constructor may raise anything
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            raise ComponentError(f"{self} raised {reason}; pass build=, a function that builds the network") from error

    def __str__(self) -> str:
        return f"building {self.kind.__name__} anew from its own {self.source}"


def _takes_more_than_config(kind: type) -> bool:
    """Whether a user's class has constructor arguments that no config holds; those of transformers show in shapes."""
    named = [one for one in inspect.signature(kind).parameters.values() if one.kind not in _VARIADIC]
    return len(named) > 1 and kind.__module__.partition(".")[0] != "transformers"


def infer_build(model: nn.Module) -> InferredBuild | None:
    """Return how to build ``model`` anew if it holds all arguments of its constructor, or None.

    transformers keeps them in ``config``, Lightning in ``hparams`` after ``save_hyperparameters()``. Neither library is
    imported here. Arguments that hold modules or tensors have been trained since, and are no way back.
    """
    kind = type(model)
    if is_instance(model, "transformers", "PreTrainedModel"):
        if _takes_more_than_config(kind):
            return None
        return InferredBuild(kind, "config", lambda: kind(copy.deepcopy(model.config)))
    if any(is_instance(model, name, "LightningModule") for name in ("lightning.pytorch", "pytorch_lightning")):
        saved: Any = model.hparams_initial
        given = dict(saved)
        named = [name for name, one in inspect.signature(kind).parameters.items() if one.kind not in _VARIADIC]
        leaves = tree_leaves(given)
        if set(named) <= set(given) and not any(isinstance(leaf, nn.Module | Tensor) for leaf in leaves):
            return InferredBuild(kind, "hparams", lambda: kind(**copy.deepcopy(given)))
    return None


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def is_instance(value: object, module: str, name: str) -> bool:
    """Whether ``value`` is an instance of the class ``name`` of ``module``; False if the module is not imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def require_same_architecture(built: nn.Module, model: nn.Module, build: object) -> None:
    """Compare the names and shapes of all parameters and buffers; of an inferred build, constant buffers' values too.

    Raises:
        ComponentError: They differ; the message names the first difference.
    """
    inferred = isinstance(build, InferredBuild)
    what, remedy = (str(build), "pass build=") if inferred else ("build=", "build= must give the same architecture")
    own, new = _tensors(model), _tensors(built)
    for name in [*own, *new]:
        if name not in own or name not in new or own[name].shape != new[name].shape:
            raise ComponentError(
                f"{what} gives another network: '{name}' {_shape(new, name)} there and {_shape(own, name)} in the "
                f"model; {remedy}"
            )
    for name in _constant_buffers(model) if inferred else ():
        if not _same_values(new[name], own[name]):
            raise ComponentError(f"{what} gives another network: the buffer '{name}' has other values; {remedy}")


def _constant_buffers(model: nn.Module) -> list[str]:
    """The buffers that no training changes: positions, tables and masks, and those that no checkpoint holds."""
    saved = model.state_dict(keep_vars=True).keys()
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if buffer.ndim)
    return [name for name, buffer in buffers if name not in saved or not buffer.is_floating_point()]


def _same_values(new: Tensor, own: Tensor) -> bool:
    if own.device.type == "meta":
        return True
    if not own.is_floating_point():
        return torch.equal(new.to(own), own)
    rounding = 4 * torch.finfo(own.dtype).eps
    return torch.allclose(new.to(own).float(), own.float(), rtol=max(rounding, 1e-5), atol=1e-8, equal_nan=True)


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
