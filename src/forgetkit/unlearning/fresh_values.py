"""Fresh values: by default from the distribution that the network itself started from.

:class:`LayerwiseFresh` initialises a copy of one layer on the CPU, if the layer initialises itself. If the constructors
around it do (torchvision, transformers), :class:`FreshValues` builds the whole network anew, or refuses.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import torch
from torch import Tensor, nn

from forgetkit.contracts import Origin
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import scoring_settings
from forgetkit.unlearning.building import InferredBuild, infer_build, require_same_architecture, unwrap
from forgetkit.unlearning.initialization import InitializationCode
from forgetkit.unlearning.integrity import scoring_dtype
from forgetkit.unlearning.layerwise import FRESH_DTYPE, Initialise, LayerwiseFresh
from forgetkit.unlearning.repeats import RepeatedValues
from forgetkit.unlearning.scales import Scale, scale_remark
from forgetkit.unlearning.shards import plain_twin
from forgetkit.unlearning.tensor_parts import is_sharded, share_memory, whole_of

Build = Callable[[], nn.Module]
Lookup = Callable[[str], Tensor]
Memory = Callable[[object], Mapping[str, Tensor]]

_COPIES = "copies of what state_dict() held at the start"


@dataclass(frozen=True, eq=False)
class ModelHistory:
    """What is known of a model's past.

    Attributes:
        build: Builds the model anew.
        repeats: Finds out which values two builds have in common.
        initialise: Initialises one of the model's modules in place.
        trust_modules: Whether ``reset_parameters`` of a layer is used even if other code initialises the layer.
        initial: Returns a tensor's value at the start of training, by name.
        previous: Returns a tensor's value at the end of the previous mega-batch, by name.
        memory: Returns what a component stored while it watched the training.
        seeds: The seeds of the whole run, for draws that last.
        compare_scales: Whether to compare the scale of fresh values with that of ``initial``, or of an inferred build.
    """

    build: Build | None = None
    repeats: Callable[[], RepeatedValues] | None = None
    initialise: Initialise | None = None
    trust_modules: bool = False
    initial: Lookup | None = None
    previous: Lookup | None = None
    memory: Memory = lambda component: {}
    seeds: Seeds | None = None
    compare_scales: bool = False


NO_HISTORY = ModelHistory()


class FreshValues:
    """Fresh values of a model's parameters and buffers: a function of seed, name and origin."""

    def __init__(self, model: nn.Module, history: ModelHistory, seeds: Seeds) -> None:
        if is_sharded(model):  # values are drawn for whole tensors, and cut by the caller
            history, model = replace(history, initial=_whole(history.initial, model)), plain_twin(model)
        self._tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._history, self._seeds = history, seeds
        self._dtype = scoring_dtype(model)
        code = None if history.trust_modules else InitializationCode(model)
        self._layerwise = LayerwiseFresh(model, history.initialise, seeds, code=code)
        self._layer_default = LayerwiseFresh(model, None, seeds, "choose another origin than layer-default")
        inferred = infer_build(model) if history.build is None and history.initialise is None else None
        self._build: Build | None = history.build if history.trust_modules else history.build or inferred
        self._known, self._where = self._known_values(inferred)
        self._model = model
        self._origins: dict[str, Origin] = {}
        self._scales: dict[str, Scale | None] = {}
        self.sources: dict[str, str] = {}
        """Where each value that was drawn came from, by name."""

    def draw(self, name: str, origin: Origin) -> Tensor:
        """Return a fresh value, on the CPU or, for ``rewind``, where the initial values are."""
        value = self._draw(name, origin)
        self._origins[name] = origin
        if origin == "original" and self._known is not None and name not in self._scales:
            self._scales[name] = Scale.of(value)
        return value

    def draw_with(self, name: str, parameter: str) -> Tensor | None:
        """Return what is drawn for ``name`` if ``parameter`` got its value from a network; else None."""
        origin = self._origins.get(parameter)
        return self._draw(name, origin) if origin in {"original", "layer-default", "rewind"} else None

    def _draw(self, name: str, origin: Origin) -> Tensor:
        match origin:
            case "original":
                return self._original(name)
            case "layer-default":
                self.sources[name] = self._layer_default.source(name)
                return self._layer_default.draw(name)
            case "uniform":
                self.sources[name] = origin
                return self._uniform(name)
            case "rewind":
                self.sources[name] = "initial"
                return self._initial(name)
            case "zero":
                self.sources[name] = origin
                return torch.zeros(self._tensors[name].shape, dtype=FRESH_DTYPE, device="cpu")
        raise OptionError(f"fresh values come from original, layer-default, uniform, rewind or zero, not '{origin}'")

    @property
    def repeated(self) -> str | None:
        """A line about values drawn from a rebuilt network that are the same in another build, if there are any."""
        repeats = self._history.repeats
        rebuilt = {name for name, source in self.sources.items() if source == "build"}
        trainable = {name for name in rebuilt if self._tensors[name].requires_grad}
        return repeats().line(trainable) if repeats is not None and trainable else None

    @property
    def scale_remark(self) -> str | None:
        """A line about values that were drawn in another scale than a network that is known to be new, if any."""
        lookup = self._known
        if lookup is None:
            return None
        drawn = {name: scale for name, scale in self._scales.items() if scale and self._tensors[name].requires_grad}
        known = {}
        for name in drawn:
            with contextlib.suppress(KeyError):  # initial= may hold a part of the network
                if (scale := Scale.of(lookup(name))) is not None:
                    known[name] = scale
        return scale_remark(drawn, known, self._where)

    def _known_values(self, inferred: InferredBuild | None) -> tuple[Lookup | None, str]:
        """The values of a network that is known to be new, by name, and what to call it; None if there is none."""
        if not self._history.compare_scales:
            return None, ""
        if self._history.initial is not None:
            return self._history.initial, "initial="
        if self._history.trust_modules and inferred is not None:
            values = cache(partial(self._values_to_compare, inferred))
            return lambda name: values()[name], f"a network new from its own {inferred.source}"
        return None, ""

    def _values_to_compare(self, build: Build) -> dict[str, Tensor]:
        """The values of a network built anew, or none if it is another one: ``fresh="module"`` is a way out of that."""
        try:
            return self._values_of(build)
        except ComponentError:
            return {}

    def _original(self, name: str) -> Tensor:
        if self._history.build is None and (self._build is None or self._layerwise.refusal(name) is None):
            value = self._layerwise.draw(name)
            self.sources[name] = self._layerwise.source(name)
            return value
        self.sources[name] = str(self._build) if isinstance(self._build, InferredBuild) else "build"
        return self._built[name]

    @cached_property
    def _built(self) -> dict[str, Tensor]:
        """The values of a network built anew, once per reset."""
        return {} if self._build is None else self._values_of(self._build)

    def _values_of(self, build: Build) -> dict[str, Tensor]:
        with scoring_settings(self._dtype), seeded_rng(self._seeds.number("fresh")):
            model = unwrap(build())
        require_same_architecture(model, self._model, build)
        return {name: t.detach().cpu() for name, t in [*model.named_parameters(), *model.named_buffers()]}

    def _uniform(self, name: str) -> Tensor:
        """U(±1/√fan_in): Kaiming uniform with a = √5, over all dimensions but the first; a vector has a fan_in of 1."""
        shape = self._tensors[name].shape
        bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        empty = torch.empty(shape, dtype=FRESH_DTYPE, device="cpu")
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
        if share_memory(value, old):
            raise OptionError(f"initial= holds the model's own '{name}', which has changed with it: pass " + _COPIES)
        return value


def _whole(lookup: Lookup | None, model: nn.Module) -> Lookup | None:
    """Let initial values that lie in parts be gathered."""
    if lookup is None:
        return None
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def whole(name: str) -> Tensor:
        value = lookup(name)
        if share_memory(value, tensors[name]):
            raise OptionError(f"initial= holds the model's own '{name}', which has changed with it: pass " + _COPIES)
        return whole_of(value.detach())

    return whole
