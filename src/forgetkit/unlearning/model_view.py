"""A read-only view of a model: what can be scored and reset, its layers and units, and the probe of a criterion."""

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
from forgetkit.unlearning.activity import activity_in, capture_inputs
from forgetkit.unlearning.differentiation import ScoringNotes
from forgetkit.unlearning.fresh_values import FreshValues, ModelHistory
from forgetkit.unlearning.heads import heads_of
from forgetkit.unlearning.integrity import component_call, read_only, restore_state
from forgetkit.unlearning.layerwise import can_reset
from forgetkit.unlearning.lazy_tensors import LazyTensors
from forgetkit.unlearning.objective import Loss, Objective
from forgetkit.unlearning.pass_counter import PassCounter
from forgetkit.unlearning.probe import Batches, GuardedProbe, ReplayableBatches, ValidatedScores
from forgetkit.unlearning.protection import NO_PROTECTION, Protection
from forgetkit.unlearning.reparametrization import pruning_masks
from forgetkit.unlearning.tensor_parts import cut_like, is_sharded, share_memory
from forgetkit.unlearning.units import units_of


@dataclass(frozen=True)
class Scoring:
    """Which parameters are scored, and in which mode the network runs.

    Args:
        params: The parameters that are scored and can be selected: ``"all"``, ``"weights"`` (without biases), or
            ``"conv-linear"`` (matrices and kernels only); see :data:`forgetkit.contracts.Scope`.
        mode: ``"eval"`` uses running statistics of batch normalisation, ``"train"`` those of each batch. Either way
            the running statistics stay as they are.

    Raises:
        OptionError: When it is used, if an option has another value.

    Example:
        >>> import torch, forgetkit
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> scores = forgetkit.score(model, importance="magnitude", scoring=forgetkit.Scoring(params="weights"))
        >>> {name: tuple(score.shape) for name, score in scores.items()}
        {'0.weight': (4, 3), '2.weight': (2, 4)}

    References:
        Ramkumar et al. (2023) score every parameter, and their code does so in eval mode: these are the defaults.
    """

    params: Scope = "all"
    mode: Mode = "eval"


DEFAULT_SCORING = Scoring()


@dataclass(eq=False)
class ViewCache:
    """The mutable part of a view: whether a component uses the model, and what a batch has shown of its structure."""

    in_use: bool = False
    layers: tuple[Layer, ...] | None = None
    units: tuple[UnitGroup, ...] | None = None


@dataclass(frozen=True, eq=False)
class ModelView:
    """A read-only view of a model.

    ``targets`` are the trainable parameters, ``scored`` those of them that are scored, ``buffers`` the buffers that may
    change, ``left_out`` the other parameters with the reason. ``protection`` tells the entries that may not change.
    ``passes`` counts the samples that components run through the model, without the few that show its structure.
    """

    model: nn.Module
    batches: ReplayableBatches | None
    loss: Loss | Objective | None
    seeds: Seeds
    scoring: Scoring
    history: ModelHistory
    targets: Mapping[str, Tensor]
    scored: Mapping[str, Tensor]
    left_out: Mapping[str, str]
    buffers: Mapping[str, Tensor]
    protection: Protection
    cache: ViewCache = field(default_factory=ViewCache)
    passes: PassCounter = field(default_factory=PassCounter)
    notes: ScoringNotes = field(default_factory=ScoringNotes)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Batches | None,
        loss: Loss | Objective | None,
        seeds: Seeds,
        scoring: Scoring,
        history: ModelHistory,
        protection: Protection = NO_PROTECTION,
    ) -> ModelView:
        """Examine ``model``, whose state is restored.

        Two samples show which parameters the loss depends on and in which order the modules execute. If a parameter
        seems unused, the whole first batch decides, since a model may route samples differently. All buffers of a
        model that can be built anew may change; otherwise those of modules that can reset themselves.
        """
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        left_out = {name: "frozen" for name, p in model.named_parameters() if not p.requires_grad}
        left_out |= {name: "protected" for name in trainable if name in protection.names}
        trainable = {name: p for name, p in trainable.items() if name not in left_out}
        if not trainable:
            but = "protects every" if "protected" in left_out.values() else "has no"
            who = "protect=" if "protected" in left_out.values() else type(model).__name__
            raise NoMatchError(f"{who} {but} trainable parameter; there is nothing to forget")
        owners, pruned = structure.owners(model), {id(mask) for mask in pruning_masks(model).values()}
        buffers = {
            name: buffer
            for name, buffer in model.named_buffers()
            if (history.build is not None or can_reset(owners[name].module))
            and not structure.is_frozen(owners[name].module)
            and name not in protection.names
            and id(buffer) not in pruned
        }
        replayable, cache = None if batches is None else ReplayableBatches(batches), ViewCache()
        if replayable is not None:
            with restore_state(model, seeds.number("lent"), training=scoring.mode == "train"):
                probe = GuardedProbe(model, replayable, tuple(trainable), loss, seeds)
                sample = next(probe.batches(2), None)
                if sample is None:
                    raise OptionError("there are no batches to look at: 'batches' is empty")
                with structure.execution_order(model) as order:
                    grads = probe.grads_or_none(*sample)
                    if None in grads.values():
                        grads = probe.grads_or_none(*next(probe.batches()))
            if all(grad is None for grad in grads.values()):
                raise NoMatchError(
                    f"the loss has no gradient for any trainable parameter of {type(model).__name__}: let it depend on "
                    "the outputs by differentiable operations"
                )
            left_out |= {name: "unused" for name, grad in grads.items() if grad is None}
            trainable = {name: p for name, p in trainable.items() if grads[name] is not None}
            cache.layers = _open_layers(structure.layers_in(model, order, buffers), trainable, left_out)
        targets = {name: p.detach() for name, p in trainable.items()}
        inside = structure.names_in(model, scoring.params)
        scored = {name: p for name, p in targets.items() if name in inside}
        if not scored:
            raise NoMatchError(f"score-params={scoring.params}: {type(model).__name__} has no such parameter")
        closed = protection.entries(model)
        if all(name in closed and bool(closed[name].all()) for name in targets):
            raise NoMatchError(
                f"every entry of {type(model).__name__} is protected or pruned; nothing is left to reset"
            )
        frozen_targets = MappingProxyType(targets)
        return cls(
            model,
            replayable,
            loss,
            seeds,
            scoring,
            history,
            frozen_targets,
            scored,
            left_out,
            buffers,
            protection,
            cache,
        )

    @contextmanager
    def read_only_access(self, name: str) -> Iterator[None]:
        """Give the component ``name`` read-only access to the model, in the mode that it is scored in."""
        before, self.cache.in_use = self.cache.in_use, True
        try:
            with read_only(self.model, name, self.seeds.number("lent"), training=self.scoring.mode == "train"):
                yield
        finally:
            self.cache.in_use = before

    def require_not_in_use(self, name: str) -> None:
        """Raise ``ComponentError`` if the component ``name`` still uses the model, which is about to change."""
        if self.cache.in_use:
            raise ComponentError(f"{name} proposes a change while it uses the model: leave context.probe() first")

    def scores(self, importance: Importance) -> ValidatedScores:
        """Score: call the criterion with a probe. Call it inside :func:`assert_params_unchanged`."""
        name = component_name(importance)
        for parameter, value in self.scored.items():
            if value.is_complex():
                raise OptionError(
                    f"'{parameter}' of {type(self.model).__name__} is complex, and scores order real numbers: hold its "
                    "real and imaginary parts as two parameters"
                )
        with restore_state(self.model, self.seeds.number("lent"), training=self.scoring.mode == "train"):
            probe = ModelProbe(self, name, self.history.memory(importance))
            with component_call(f"the importance criterion {name}"):
                scores = importance.score(probe)
            probe.require_counted()
        return ValidatedScores(scores, self.scored, name, allows_ties=bool(getattr(importance, "allows_ties", False)))

    @property
    def eligible(self) -> int:
        """How many of the scored entries may be selected."""
        protected = self.protection.entries(self.model)
        fixed = sum(int(mask.sum()) for name, mask in protected.items() if name in self.scored)
        return sum(p.numel() for p in self.scored.values()) - fixed

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in order of execution."""
        if self.cache.layers is None:
            with self._two_samples("the order of execution is seen on") as (probe, inputs):
                with structure.execution_order(self.model) as order:
                    probe.run(inputs)
                layers = structure.layers_in(self.model, order, self.buffers)
                self.cache.layers = _open_layers(layers, self.targets, self.left_out)
        return self.cache.layers

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the layers from which the loss is computed with no other weighted layer in between."""
        weighted = [layer.name for layer in self.layers if layer.kind == "weight"]
        with self._two_samples("the head is seen on", tuple(self.targets)) as (probe, _):
            return heads_of(self.model, weighted, lambda: probe.loss(*next(probe.batches(2))))

    @property
    def units(self) -> tuple[UnitGroup, ...]:
        """The groups of units, traced once."""
        if is_sharded(self.model):
            raise OptionError(
                "units are found by tracing the whole network, and its parameters lie in parts in several processes "
                "(DTensor): choose a component that needs no units"
            )
        if self.cache.units is None:
            with self._two_samples("units are found by tracing") as (probe, inputs):
                args, kwargs = probe.arguments(inputs)
                self.cache.units = units_of(self.model, args, {*self.targets, *self.buffers}, kwargs)
        return self.cache.units

    @contextmanager
    def _two_samples(self, what: str, names: Sequence[str] = ()) -> Iterator[tuple[GuardedProbe, Any]]:
        if self.batches is None:
            raise OptionError(f"{what} a batch: give batches of (inputs, targets)")
        with self.read_only_access("examining"):
            probe = GuardedProbe(self.model, self.batches, names, self.loss, self.seeds)
            yield probe, next(probe.batches(2))[0]

    def reference(self, which: Reference, current: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return earlier weights, each in the dtype and on the device of the ``current`` tensor of that name."""
        lookup = {"initial": self.history.initial, "previous": self.history.previous}.get(which)
        if lookup is None:
            if which not in ("initial", "previous"):
                raise OptionError(f"reference weights are initial or previous, not '{which}'")
            remedy = "; in a run, its class says needs_previous = True" if which == "previous" else ""
            raise OptionError(f"the {which} weights are unknown: pass {which}=, copies of state_dict(){remedy}")

        def earlier(name: str) -> Tensor:
            now = current[name]
            try:
                value = lookup(name)
            except KeyError as error:
                raise OptionError(f"the earlier weights hold no '{name}': pass all of state_dict()") from error
            if value.shape != now.shape:
                raise OptionError(f"the earlier weights hold '{name}' in another shape than {tuple(now.shape)}")
            if share_memory(value, now):
                raise OptionError(f"the earlier weights hold the model's own '{name}', which has changed: pass copies")
            return cut_like(value.detach().to(device=now.device, dtype=now.dtype), now)

        return LazyTensors(current.keys(), earlier)


class ViewAccess:
    """The answers that a probe and a reset context have in common, taken from a view of the model."""

    view: ModelView

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The trainable parameters, detached."""
        return self.view.targets

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in order of execution."""
        return self.view.layers

    @property
    def heads(self) -> Sequence[str]:
        """The names of the heads."""
        return self.view.heads

    @property
    def units(self) -> Sequence[UnitGroup]:
        """The groups of units."""
        return self.view.units

    def names(self, scope: Scope | Literal["norm"]) -> tuple[str, ...]:
        """Return the names in ``targets`` that are in ``scope``."""
        inside = structure.names_in(self.view.model, scope)
        return tuple(name for name in self.targets if name in inside)

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """Return earlier weights for each of ``targets``."""
        return self.view.reference(which, self.targets)

    @cached_property
    def _fresh_values(self) -> FreshValues:
        return FreshValues(self.view.model, self.view.history, self.view.seeds)


class ModelProbe(GuardedProbe, ViewAccess):
    """The probe of a view. Without batches it raises ``OptionError`` when a component asks for them."""

    def __init__(
        self, view: ModelView, name: str, memory: Mapping[str, Tensor], targets: Mapping[str, Tensor] | None = None
    ) -> None:
        names = tuple(view.scored if targets is None else targets)
        super().__init__(view.model, view.batches or ReplayableBatches(()), names, view.loss, view.seeds)
        self.view, self.memory, self.passes, self._component_name = view, memory, view.passes, name
        self.notes = view.notes

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Any, Any]]:
        """Return an iterator over the batches."""
        if self.view.batches is None:
            raise OptionError(f"{self._component_name} needs data: give it batches of (inputs, targets)")
        return super().batches(samples)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        inputs, _ = next(ModelProbe.batches(self, 1))
        return tuple(inputs.shape[1:])

    def layer_inputs(self, inputs: Any) -> dict[str, Tensor]:
        """Return the input of each layer that runs."""
        self._require_whole("layer_inputs()")
        names = [layer.name for layer in self.layers]
        with capture_inputs(self._model, names) as captured:
            self.run(inputs)
        return {name: captured[name] for name in names if name in captured}

    def unit_activity(self, inputs: Any) -> dict[str, Tensor]:
        """Return what the readers of each group see of it."""
        with capture_inputs(self._model, [reader for group in self.units for reader in group.readers]) as captured:
            self.run(inputs)
        return activity_in(self.units, self._model, captured, len(inputs))

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """Return the value that the reset will give, as the parameter's dtype holds it."""
        if name not in self.targets:
            raise OptionError(f"'{name}' is no parameter to score, so it gets no fresh value")
        old, now = self.view.targets[name], self.targets[name]
        written = self._fresh_values.draw(name, origin).to(device=old.device, dtype=old.dtype)
        return cut_like(written.to(device=now.device, dtype=now.dtype), old)


def _open_layers(
    layers: Sequence[Layer], trainable: Mapping[str, Tensor], left_out: Mapping[str, str]
) -> tuple[Layer, ...]:
    """Keep what may change. A frozen layer stays, without parameters, so that the head stays the head.

    A layer whose parameters are all unused is dropped.
    """
    return tuple(
        replace(layer, parameters=tuple(name for name in layer.parameters if name in trainable))
        for layer in layers
        if not layer.parameters or any(left_out.get(name) != "unused" for name in layer.parameters)
    )
