"""Fresh values: by default from the distribution that a module itself starts from.

That in two ways, with one verb. A layer at a time: a copy of the one module is initialised anew on the CPU.
Or the whole network built again, for those whose initialisation only their constructor knows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from forgetkit.contracts import Origin
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import scoring_settings, settings_restored
from forgetkit.unlearning.integrity import any_nan, dtype_in, fingerprints, is_constant
from forgetkit.unlearning.structure import ParameterOwner, owners

Initialise = Callable[[nn.Module], None]
Build = Callable[[], nn.Module]
Lookup = Callable[[str], Tensor]
Memory = Callable[[object], Mapping[str, Tensor]]

_DTYPE = torch.float32
"""What values are drawn in: a draw is the same for a network of any precision, whatever the caller's default is."""

_RESETS = ("reset_parameters", "_reset_parameters")  # torch's convention; nn.MultiheadAttention's spelling
_COPIES = "copies of what state_dict() held at the start"
_REMEDY = "pass build=, a function that builds the network anew"


def _no_memory(component: object) -> Mapping[str, Tensor]:
    return {}


@dataclass(frozen=True, eq=False)
class ModelHistory:
    """What is known of a model's past.

    ``build`` makes it anew, ``initialise`` draws one of its modules; ``initial`` and ``previous`` give the values that
    it began with and those at the end of the mega-batch before, by name; ``memory`` what a component kept while it
    watched the training; ``seeds`` are those of the whole run, for draws that last. ``repeats`` finds out what two
    builds have in common, for those who want to know.
    """

    build: Build | None = None
    repeats: Callable[[], RepeatedValues] | None = None
    initialise: Initialise | None = None
    initial: Lookup | None = None
    previous: Lookup | None = None
    memory: Memory = _no_memory
    seeds: Seeds | None = None


NO_HISTORY = ModelHistory()


class FreshSource(Protocol):
    """A source of fresh values."""

    def draw(self, name: str) -> Tensor:
        """A fresh value for a parameter or buffer, on the CPU."""
        ...


def can_reset(module: nn.Module) -> bool:
    """Whether a module knows how to initialise itself."""
    return any(hasattr(module, name) for name in _RESETS)


def reset(module: nn.Module) -> None:
    """Let a module initialise its own parameters, by torch's convention."""
    for name in _RESETS:
        if hasattr(module, name):
            getattr(module, name)()
            return
    raise ComponentError(f"{type(module).__name__} has no reset_parameters()")


class FreshValues:
    """Fresh values by the name of where they come from; a function of seed, name and origin."""

    def __init__(self, model: nn.Module, past: ModelHistory, seeds: Seeds) -> None:
        self._tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        layers = LayerwiseFresh(model, past.initialise, seeds)
        self._rebuilt = None if past.build is None else RebuiltFresh(past.build, dtype_in(model), seeds)
        self._original: FreshSource = self._rebuilt or layers
        self._past = past
        self._layer_default = LayerwiseFresh(model, None, seeds, "choose another origin than layer-default")
        self._initial = past.initial
        self._seeds = seeds

    def draw(self, name: str, origin: Origin) -> Tensor:
        """A fresh value for ``name``, on the CPU or where the values kept for rewinding are."""
        match origin:
            case "original":
                return self._original.draw(name)
            case "layer-default":
                return self._layer_default.draw(name)
            case "uniform":
                return self._uniform(name)
            case "rewind":
                return self._begun(name)
            case "zero":
                return torch.zeros(self._tensors[name].shape, dtype=_DTYPE, device="cpu")
        raise OptionError(f"fresh values come from original, layer-default, uniform, rewind or zero, not '{origin}'")

    @property
    def repeated(self) -> str | None:
        """A line about values that were taken from a network built anew and are the same in another build, if any."""
        repeats, drawn = self._past.repeats, () if self._rebuilt is None else self._rebuilt.drawn
        trainable = {name for name in drawn if self._tensors[name].requires_grad}
        return repeats().line(trainable) if repeats is not None and trainable else None

    def _uniform(self, name: str) -> Tensor:
        """U(±1/√fan_in): Kaiming uniform with a = √5, over all dimensions but the first."""
        shape = self._tensors[name].shape
        bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))  # of one dimension: a fan_in of 1
        empty = torch.empty(shape, dtype=_DTYPE, device="cpu")
        return empty.uniform_(-bound, bound, generator=self._seeds.torch("fresh", name))

    def _begun(self, name: str) -> Tensor:
        if self._initial is None:
            raise OptionError("rewinding needs the values that the model began with: pass initial=, " + _COPIES)
        try:
            value = self._initial(name)
        except KeyError as error:
            raise OptionError(f"initial= holds no '{name}', so it cannot be rewound: pass " + _COPIES) from error
        old = self._tensors[name]
        if not isinstance(value, Tensor) or value.shape != old.shape:
            raise OptionError(f"initial= holds no tensor of shape {tuple(old.shape)} for '{name}': pass " + _COPIES)
        if value.untyped_storage().data_ptr() == old.untyped_storage().data_ptr():
            raise OptionError(f"initial= holds the model's own '{name}', which has changed with it: pass " + _COPIES)
        return value


class LayerwiseFresh:
    """Draws a layer at a time, each parameter from a stream of its own name."""

    def __init__(self, model: nn.Module, initialise: Initialise | None, seeds: Seeds, remedy: str = _REMEDY) -> None:
        self._remedy = remedy
        self._owners: Mapping[str, ParameterOwner] = owners(model)
        self._initialise = initialise
        self._seeds = seeds

    def draw(self, name: str) -> Tensor:
        """A fresh value for ``name``, a function of the seed and of the name alone."""
        owner = self._owners[name]
        who = type(owner.module).__name__
        if self._initialise is None and not can_reset(owner.module):
            raise ComponentError(f"no fresh value for '{name}': {who} has no reset_parameters(); {self._remedy}")
        old = getattr(owner.module, owner.local)
        # The old value must not pass for a fresh one, and is no use copying.
        empty = {id(old): _nan_like(old)} if type(old) is nn.Parameter else {}
        try:
            shell = copy.deepcopy(owner.module, empty).cpu().float()
        except RuntimeError as error:  # torch's old weight_norm hangs a computed weight on the module
            raise ComponentError(f"no fresh value for '{name}': {who} cannot be copied; {self._remedy}") from error
        draws = self._seeds.number("fresh", name)
        with (
            scoring_settings(_DTYPE),
            settings_restored(f"the module {who}"),
            seeded_rng(draws),
            torch.no_grad(),
        ):
            if isinstance(old, nn.Parameter) and not empty:
                getattr(shell, owner.local).fill_(torch.nan)
            (self._initialise or reset)(shell)
        value: Tensor = getattr(shell, owner.local).detach()
        if any_nan(value):
            how = "reset_parameters()" if self._initialise is None else "the model's initialise()"
            raise ComponentError(f"no fresh value for '{name}': {how} of {who} leaves it as it is; {self._remedy}")
        return value


def _nan_like(parameter: Tensor) -> nn.Parameter:
    """NaN throughout, in the shape and memory format of ``parameter``, float32 (or complex) on the CPU."""
    dtype = parameter.dtype if parameter.is_complex() else _DTYPE
    value = torch.empty_like(parameter, dtype=dtype, device="cpu", requires_grad=False)
    (torch.view_as_real(value) if value.is_complex() else value).fill_(torch.nan)
    return nn.Parameter(value, requires_grad=parameter.requires_grad)


@dataclass(frozen=True)
class RepeatedValues:
    """What two builds of a network under different seeds have in common.

    ``varied`` are the tensors whose entries are not all equal (those of 1 or 0 throughout are meant to be constant),
    ``same`` those of them that come out the same twice. ``remedy`` ends the line about them.
    """

    same: tuple[str, ...]
    varied: tuple[str, ...]
    remedy: str

    @classmethod
    def of(cls, build: Build, remedy: str) -> RepeatedValues:
        """Builds the network twice; the global random state stays as it is."""
        first, second = (_fingerprints(build, Seeds(number)) for number in range(2))
        return cls(tuple(name for name in first if second.get(name) == first[name]), tuple(first), remedy)

    def line(self, names: Collection[str]) -> str | None:
        """How many of the tensors called ``names`` are the same, or None if there is none."""
        same, varied = ([name for name in found if name in names] for found in (self.same, self.varied))
        if not same:
            return None
        shown = same[0] + (", …" if len(same) > 1 else "")
        return (
            f"{len(same)} of {len(varied)} random-looking tensors are the same in two builds of the network ({shown}): "
            f"the builder loads or fixes its weights, so a reset gives back these values each time; {self.remedy}"
        )


def _fingerprints(build: Build, seeds: Seeds) -> dict[str, int]:
    """A fingerprint of each parameter that is not constant, in a network built under ``seeds``."""
    with seeded_rng(seeds.number("build")):
        model = build()
    varied = {name: p for name, p in model.named_parameters() if not is_constant(p)}
    return dict(zip(varied, fingerprints(varied.values()), strict=True))


class RebuiltFresh:
    """Takes values from the same network built again, once per event."""

    def __init__(self, build: Build, dtype: torch.dtype, seeds: Seeds) -> None:
        self._build, self._dtype = build, dtype
        self._seeds = seeds
        self.drawn: set[str] = set()
        """The names that were asked for."""

    @cached_property
    def _values(self) -> dict[str, Tensor]:
        with scoring_settings(self._dtype), seeded_rng(self._seeds.number("fresh")):
            model = self._build()
        return {name: t.detach().cpu() for name, t in [*model.named_parameters(), *model.named_buffers()]}

    def draw(self, name: str) -> Tensor:
        """The value that ``name`` has in the network built anew."""
        if name not in self._values:
            raise ComponentError(f"the network built anew has no '{name}': build= must give the same architecture")
        self.drawn.add(name)
        return self._values[name]
