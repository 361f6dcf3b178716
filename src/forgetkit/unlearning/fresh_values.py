"""Fresh values: by default from the distribution that a module itself starts from.

:class:`LayerwiseFresh` initialises a copy of the one module on the CPU. For models that only their constructor can
initialise, :class:`FreshValues` builds the whole network anew.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from forgetkit.contracts import Origin
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import scoring_settings, settings_restored
from forgetkit.unlearning.integrity import scoring_dtype
from forgetkit.unlearning.repeats import RepeatedValues
from forgetkit.unlearning.structure import owners
from forgetkit.unlearning.tensor_checks import any_nan

Initialise = Callable[[nn.Module], None]
Build = Callable[[], nn.Module]
Lookup = Callable[[str], Tensor]
Memory = Callable[[object], Mapping[str, Tensor]]

_DTYPE = torch.float32
"""The dtype of every draw: it is the same for a network of any precision and whatever torch's default is."""

_RESETS = ("reset_parameters", "_reset_parameters")  # torch's convention; nn.MultiheadAttention's spelling
_COPIES = "copies of what state_dict() held at the start"
_REMEDY = "pass build=, a function that builds the network anew"


@dataclass(frozen=True, eq=False)
class ModelHistory:
    """What is known of a model's past.

    Attributes:
        build: Builds the model anew.
        repeats: Finds out which values two builds have in common.
        initialise: Initialises one of the model's modules in place.
        initial: Returns a tensor's value at the start of training, by name.
        previous: Returns a tensor's value at the end of the previous mega-batch, by name.
        memory: Returns what a component stored while it watched the training.
        seeds: The seeds of the whole run, for draws that last.
    """

    build: Build | None = None
    repeats: Callable[[], RepeatedValues] | None = None
    initialise: Initialise | None = None
    initial: Lookup | None = None
    previous: Lookup | None = None
    memory: Memory = lambda component: {}
    seeds: Seeds | None = None


NO_HISTORY = ModelHistory()


def can_reset(module: nn.Module) -> bool:
    """Whether a module can initialise itself."""
    return any(hasattr(module, name) for name in _RESETS)


def reset(module: nn.Module) -> None:
    """Let a module that :func:`can_reset` initialise its own parameters."""
    next(getattr(module, name) for name in _RESETS if hasattr(module, name))()


class FreshValues:
    """Fresh values of a model's parameters and buffers: a function of seed, name and origin."""

    def __init__(self, model: nn.Module, history: ModelHistory, seeds: Seeds) -> None:
        self._tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._history, self._seeds = history, seeds
        self._dtype = scoring_dtype(model)
        self._layerwise = LayerwiseFresh(model, history.initialise, seeds)
        self._layer_default = LayerwiseFresh(model, None, seeds, "choose another origin than layer-default")
        self._rebuilt: set[str] = set()
        """The names of the values that were taken from a network built anew."""

    def draw(self, name: str, origin: Origin) -> Tensor:
        """Return a fresh value, on the CPU or, for ``rewind``, where the initial values are."""
        match origin:
            case "original":
                return self._layerwise.draw(name) if self._history.build is None else self._from_build(name)
            case "layer-default":
                return self._layer_default.draw(name)
            case "uniform":
                return self._uniform(name)
            case "rewind":
                return self._initial(name)
            case "zero":
                return torch.zeros(self._tensors[name].shape, dtype=_DTYPE, device="cpu")
        raise OptionError(f"fresh values come from original, layer-default, uniform, rewind or zero, not '{origin}'")

    @property
    def repeated(self) -> str | None:
        """A line about values drawn from a rebuilt network that are the same in another build, if there are any."""
        repeats = self._history.repeats
        trainable = {name for name in self._rebuilt if self._tensors[name].requires_grad}
        return repeats().line(trainable) if repeats is not None and trainable else None

    @cached_property
    def _built(self) -> dict[str, Tensor]:
        """The values of a network built anew, once per reset."""
        if self._history.build is None:
            return {}
        with scoring_settings(self._dtype), seeded_rng(self._seeds.number("fresh")):
            model = self._history.build()
        return {name: t.detach().cpu() for name, t in [*model.named_parameters(), *model.named_buffers()]}

    def _from_build(self, name: str) -> Tensor:
        if name not in self._built:
            raise ComponentError(f"the network built anew has no '{name}': build= must give the same architecture")
        self._rebuilt.add(name)
        return self._built[name]

    def _uniform(self, name: str) -> Tensor:
        """U(±1/√fan_in): Kaiming uniform with a = √5, over all dimensions but the first; a vector has a fan_in of 1."""
        shape = self._tensors[name].shape
        bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        empty = torch.empty(shape, dtype=_DTYPE, device="cpu")
        return empty.uniform_(-bound, bound, generator=self._seeds.torch("fresh", name))

    def _initial(self, name: str) -> Tensor:
        if self._history.initial is None:
            raise OptionError("rewinding needs the values that the model began with: pass initial=, " + _COPIES)
        try:
            value = self._history.initial(name)
        except KeyError as error:
            raise OptionError(f"initial= holds no '{name}', so it cannot be rewound: pass " + _COPIES) from error
        old = self._tensors[name]
        if not isinstance(value, Tensor) or value.shape != old.shape:
            raise OptionError(f"initial= holds no tensor of shape {tuple(old.shape)} for '{name}': pass " + _COPIES)
        if value.untyped_storage().data_ptr() == old.untyped_storage().data_ptr():
            raise OptionError(f"initial= holds the model's own '{name}', which has changed with it: pass " + _COPIES)
        return value


class LayerwiseFresh:
    """Initialises a copy of one module at a time, each parameter under a random stream of its own name."""

    def __init__(self, model: nn.Module, initialise: Initialise | None, seeds: Seeds, remedy: str = _REMEDY) -> None:
        self._owners = owners(model)
        self._initialise, self._seeds, self._remedy = initialise, seeds, remedy

    def draw(self, name: str) -> Tensor:
        """Return a fresh value on the CPU, a function of the seed and of the name alone."""
        owner = self._owners[name]
        kind = type(owner.module).__name__
        if self._initialise is None and not can_reset(owner.module):
            raise ComponentError(f"no fresh value for '{name}': {kind} has no reset_parameters(); {self._remedy}")
        old = getattr(owner.module, owner.local)
        # NaN in place of the old value: it cannot pass for a fresh one, and is not copied.
        replaced = {id(old): _nan_like(old)} if type(old) is nn.Parameter else {}
        try:
            module = copy.deepcopy(owner.module, replaced).cpu().float()
        except RuntimeError as error:  # torch's old weight_norm stores a computed weight on the module
            raise ComponentError(f"no fresh value for '{name}': {kind} cannot be copied; {self._remedy}") from error
        with (
            scoring_settings(_DTYPE),
            settings_restored(f"the module {kind}"),
            seeded_rng(self._seeds.number("fresh", name)),
            torch.no_grad(),
        ):
            if isinstance(old, nn.Parameter) and not replaced:
                getattr(module, owner.local).fill_(torch.nan)
            (self._initialise or reset)(module)
        value: Tensor = getattr(module, owner.local).detach()
        if any_nan(value):
            how = "reset_parameters()" if self._initialise is None else "the model's initialise()"
            raise ComponentError(f"no fresh value for '{name}': {how} of {kind} leaves it as it is; {self._remedy}")
        return value


def _nan_like(parameter: Tensor) -> nn.Parameter:
    """Return NaN in the shape and memory format of ``parameter``, float32 (or complex) on the CPU."""
    dtype = parameter.dtype if parameter.is_complex() else _DTYPE
    value = torch.empty_like(parameter, dtype=dtype, device="cpu", requires_grad=False)
    (torch.view_as_real(value) if value.is_complex() else value).fill_(torch.nan)
    return nn.Parameter(value, requires_grad=parameter.requires_grad)
