"""A model, examined: what can be scored and reset, in which order it executes, and the probe a criterion gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from forgetkit.contracts import Importance, Layer, Mode, Origin, Reference, Scope, UnitGroup, component_name
from forgetkit.errors import ComponentError, NoMatchError, OptionError
from forgetkit.seeding import Seeds
from forgetkit.unlearning import structure
from forgetkit.unlearning.fresh_values import FreshValues, Lookup, ModelHistory, can_reset
from forgetkit.unlearning.integrity import component_call, read_only, restore_state
from forgetkit.unlearning.pass_counter import PassCounter
from forgetkit.unlearning.probe import Batches, GuardedProbe, Loss, ReplayableBatches, ValidatedScores
from forgetkit.unlearning.units import activity_in, capture_inputs, units_of


@dataclass(frozen=True)
class Scoring:
    """What is scored, and how the network is run meanwhile.

    params: which parameters are scored, and can be selected: all, weights, or conv-linear (see
        :data:`forgetkit.contracts.Scope`).
    mode: eval, or train for the statistics of each batch instead of the running ones, which are put back.
    """

    params: Scope = "all"
    mode: Mode = "eval"


DEFAULT_SCORING = Scoring()


@dataclass(eq=False)
class ViewCache:
    """What changes about a view: whether it is lent out; what is found on a batch, once somebody asks."""

    lent: bool = False
    layers: tuple[Layer, ...] | None = None
    units: tuple[UnitGroup, ...] | None = None


@dataclass(frozen=True, eq=False)
class ModelView:
    """A model, examined: what can be scored and reset, and in which order it executes.

    ``passes`` counts the samples that components run through it; the few that show how it is made are not among them.
    """

    model: nn.Module
    batches: ReplayableBatches | None
    loss: Loss
    seeds: Seeds
    scoring: Scoring
    past: ModelHistory
    targets: Mapping[str, Tensor]
    scored: Mapping[str, Tensor]
    left_out: Mapping[str, str]
    buffers: Mapping[str, Tensor]
    standing: ViewCache = field(default_factory=ViewCache)
    passes: PassCounter = field(default_factory=PassCounter)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Batches | None,
        loss: Loss,
        seeds: Seeds,
        scoring: Scoring,
        past: ModelHistory,
    ) -> ModelView:
        """Examine ``model``, which the caller lends meanwhile (:func:`restore_state`).

        With batches, two samples show what the loss depends on and in which order the modules execute; where that
        leaves a parameter out, the whole first batch is asked, since a model may route samples differently.
        Of a model that is built anew every buffer is open, of others those of modules that can reset themselves.
        """
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        left_out = {name: "frozen" for name, p in model.named_parameters() if not p.requires_grad}
        if not trainable:
            raise NoMatchError(f"{type(model).__name__} has no trainable parameter; there is nothing to forget")
        owners = structure.owners(model)
        resettable = {
            name: buffer
            for name, buffer in model.named_buffers()
            if (past.build is not None or can_reset(owners[name].module))
            and not structure.is_frozen(owners[name].module)
        }
        again = None if batches is None else ReplayableBatches(batches)
        standing = ViewCache()
        if again is not None:
            probe = GuardedProbe(model, again, tuple(trainable), loss, seeds)
            sample = next(probe.batches(2), None)
            if sample is None:
                raise OptionError("there are no batches to look at: 'batches' is empty")
            with structure.execution_order(model) as order:
                reached = probe.reached(*sample)
                if None in reached.values():
                    reached = probe.reached(*next(probe.batches()))
            if all(grad is None for grad in reached.values()):
                raise NoMatchError(
                    f"the loss has no gradient for any trainable parameter of {type(model).__name__}: let it depend on "
                    "the outputs by differentiable operations"
                )
            left_out |= {name: "unused" for name, grad in reached.items() if grad is None}
            trainable = {name: p for name, p in trainable.items() if reached[name] is not None}
            standing.layers = _open_layers(structure.layers_in(model, order, resettable), trainable, left_out)
        targets = {name: p.detach() for name, p in trainable.items()}
        inside = structure.names_in(model, scoring.params)
        scored = {name: p for name, p in targets.items() if name in inside}
        if not scored:
            raise NoMatchError(f"score-params={scoring.params}: {type(model).__name__} has no such parameter")
        return cls(
            model, again, loss, seeds, scoring, past, MappingProxyType(targets), scored, left_out, resettable, standing
        )

    @contextmanager
    def lend(self, who: str) -> Iterator[None]:
        """Meanwhile the model is ``who``'s to look at, in the mode it is to be scored in."""
        before, self.standing.lent = self.standing.lent, True
        try:
            with read_only(self.model, who, self.seeds.number("lent"), training=self.scoring.mode == "train"):
                yield
        finally:
            self.standing.lent = before

    def require_back(self, who: str) -> None:
        """``ComponentError`` where ``who`` has the model lent while it is to be written to."""
        if self.standing.lent:
            raise ComponentError(f"{who} proposes a change while the model is lent to it: leave context.probe() first")

    def scores(self, importance: Importance) -> ValidatedScores:
        """Score, with the model lent out. The caller checks that its parameters are unchanged."""
        who = component_name(importance)
        with restore_state(self.model, self.seeds.number("lent"), training=self.scoring.mode == "train"):
            probe = ModelProbe(self, who, self.past.memory(importance))
            with component_call(f"the importance criterion {who}"):
                scores = importance.score(probe)
        return ValidatedScores(scores, self.scored, who, allows_ties=bool(getattr(importance, "allows_ties", False)))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in order of execution."""
        if self.standing.layers is None:
            with self._shown("the order of execution is seen on") as (probe, inputs):
                with structure.execution_order(self.model) as order:
                    probe.outputs(inputs)
                layers = structure.layers_in(self.model, order, self.buffers)
                self.standing.layers = _open_layers(layers, self.targets, self.left_out)
        return self.standing.layers

    @property
    def units(self) -> tuple[UnitGroup, ...]:
        """The groups of units, traced once."""
        if self.standing.units is None:
            with self._shown("units are found by tracing") as (_, inputs):
                self.standing.units = units_of(self.model, inputs, {*self.targets, *self.buffers})
        return self.standing.units

    @contextmanager
    def _shown(self, what: str) -> Iterator[tuple[GuardedProbe, Tensor]]:
        """Two samples, and the model to run on them."""
        if self.batches is None:
            raise OptionError(f"{what} a batch: give batches of (inputs, targets)")
        with self.lend("examining"):
            probe = GuardedProbe(self.model, self.batches, (), self.loss, self.seeds)
            yield probe, next(probe.batches(2))[0]

    def names(self, scope: Scope | Literal["norm"], of: Mapping[str, Tensor]) -> tuple[str, ...]:
        """The names in ``of`` that are in ``scope``."""
        inside = structure.names_in(self.model, scope)
        return tuple(name for name in of if name in inside)

    def reference(self, which: Reference, today: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of the past, each in the dtype and on the device of what it stands beside."""
        values = {"initial": self.past.initial, "previous": self.past.previous}.get(which)
        if values is None:
            if which not in ("initial", "previous"):
                raise OptionError(f"reference weights are initial or previous, not '{which}'")
            remedy = "; in a run, its class says needs_previous = True" if which == "previous" else ""
            raise OptionError(f"the {which} weights are not known here: pass {which}=, copies of state_dict(){remedy}")
        return ReferenceWeights(values, today)


class ReferenceWeights(Mapping[str, Tensor]):
    """Weights of the past, looked up when they are asked for, on the device and in the dtype of today's."""

    def __init__(self, values: Lookup, today: Mapping[str, Tensor]) -> None:
        self._values, self._today = values, today

    def __getitem__(self, name: str) -> Tensor:
        today = self._today[name]
        try:
            value = self._values(name)
        except KeyError as error:
            raise OptionError(f"the weights of the past hold no '{name}': pass all of state_dict()") from error
        if value.shape != today.shape:
            raise OptionError(f"the weights of the past hold '{name}' in another shape than {tuple(today.shape)}")
        if value.untyped_storage().data_ptr() == today.untyped_storage().data_ptr():
            raise OptionError(f"the weights of the past hold the model's own '{name}', which has changed: pass copies")
        return value.detach().to(today)

    def __iter__(self) -> Iterator[str]:
        return iter(self._today)

    def __len__(self) -> int:
        return len(self._today)


class ModelProbe(GuardedProbe):
    """The probe of a view. One without batches says so when it is asked for them."""

    def __init__(
        self, subject: ModelView, who: str, memory: Mapping[str, Tensor], targets: Mapping[str, Tensor] | None = None
    ) -> None:
        batches, names = subject.batches or ReplayableBatches(()), tuple(subject.scored if targets is None else targets)
        super().__init__(subject.model, batches, names, subject.loss, subject.seeds)
        self._subject, self._who, self._memory = subject, who, memory
        self.passes = subject.passes

    @cached_property
    def _origins(self) -> FreshValues:
        return FreshValues(self._subject.model, self._subject.past, self._subject.seeds)

    def batches(self, samples: int | float | None = None) -> Any:
        """As those of any probe."""
        if self._subject.batches is None:
            raise OptionError(f"{self._who} looks at data: give it batches of (inputs, targets)")
        return super().batches(samples)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        inputs, _ = next(ModelProbe.batches(self, 1))
        return tuple(inputs.shape[1:])

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in order of execution."""
        return self._subject.layers

    @property
    def units(self) -> Sequence[UnitGroup]:
        """The groups of units."""
        return self._subject.units

    @property
    def memory(self) -> Mapping[str, Tensor]:
        """What the component kept while training."""
        return self._memory

    def names(self, scope: Scope | Literal["norm"]) -> tuple[str, ...]:
        """The names in ``targets`` that are in ``scope``."""
        return self._subject.names(scope, self.targets)

    def layer_inputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """What each layer that runs was given."""
        names = [layer.name for layer in self.layers]
        with capture_inputs(self._model, names) as seen:
            self.outputs(inputs)
        return {name: seen[name] for name in names if name in seen}

    def unit_activity(self, inputs: Tensor) -> dict[str, Tensor]:
        """What each group's readers see of it."""
        with capture_inputs(self._model, [reader for group in self.units for reader in group.readers]) as seen:
            self.outputs(inputs)
        return activity_in(self.units, self._model, seen, len(inputs))

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """Weights of the past."""
        return self._subject.reference(which, self.targets)

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """The value that the reset will give."""
        if name not in self.targets:
            raise OptionError(f"'{name}' is no parameter to score, so it gets no fresh value")
        written = self._origins.draw(name, origin).to(self._subject.targets[name])  # as the parameter's dtype holds it
        return written.to(self.targets[name])


def _open_layers(
    layers: Sequence[Layer], trainable: Mapping[str, Tensor], left_out: Mapping[str, str]
) -> tuple[Layer, ...]:
    """Only what may be changed. A frozen layer keeps its place, without parameters: the head stays the head.

    One whose parameters are all unused drops out.
    """
    return tuple(
        replace(layer, parameters=tuple(name for name in layer.parameters if name in trainable))
        for layer in layers
        if not layer.parameters or any(left_out.get(name) != "unused" for name in layer.parameters)
    )
