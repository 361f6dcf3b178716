"""Interventions at work on a model and its optimizer: called at their moments, in anybody's loop."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from forgetkit.contracts import Change, Intervention, InterventionContext, component_name
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import scoring_settings
from forgetkit.unlearning.apply import all_or_nothing, apply
from forgetkit.unlearning.fresh_values import NO_HISTORY, ModelHistory
from forgetkit.unlearning.integrity import component_call, dtype_in, require_gradients_possible
from forgetkit.unlearning.model_view import DEFAULT_SCORING, ModelView
from forgetkit.unlearning.pass_counter import PassCounter
from forgetkit.unlearning.probe import Loss, ReplayableBatches
from forgetkit.unlearning.reset_context import ResetContext
from forgetkit.unlearning.units import activity_in, capture_inputs

HOOKS = ("begin", "loss", "before_step", "after_step", "after_epoch")
"""The moments at which an intervention may act, by the method it overrides."""

Batch = tuple[Tensor, Tensor]

_log = logging.getLogger("forgetkit")


def overridden_hooks(component: type) -> tuple[str, ...]:
    """When an intervention acts: the methods that its class overrides."""
    return tuple(verb for verb in HOOKS if getattr(component, verb) is not getattr(Intervention, verb))


@dataclass(frozen=True)
class TrainStep:
    """Where training stands: ``mega_batch`` and ``epoch`` count from 1, ``step`` from 0 in the epoch."""

    mega_batch: int
    epoch: int = 1
    step: int = 0


@dataclass(eq=False)
class InterventionRunner:
    """The interventions of a training, what they keep, and the moments at which each acts.

    ``trying`` looks at more than a training can afford to: whether a term of the loss is finite. ``passes`` counts the
    samples that interventions run through the model beside the training.
    """

    model: nn.Module
    optimizer: Optimizer
    interventions: Sequence[Intervention]
    seeds: Seeds
    past: ModelHistory = NO_HISTORY
    loss: Loss = cross_entropy
    trying: bool = False
    passes: PassCounter = field(default_factory=PassCounter)
    names: tuple[str, ...] = field(init=False)
    """What errors call the interventions."""
    states: list[dict[str, Tensor]] = field(init=False)
    resets: list[int] = field(init=False)
    """How many entries each has reset in this mega-batch through ``moment.apply``."""
    _reported: set[str] = field(default_factory=set, init=False)
    """Whom a warning has named for what they changed of torch's settings."""
    warned: bool = field(default=False, init=False)
    """Whether a warning has said that fresh values repeat themselves."""
    _batch: Batch | None = field(default=None, init=False)
    _examined: tuple[tuple[str, ...], ModelView] | None = field(default=None, init=False)
    _contexts: list[ResetContext] = field(default_factory=list, init=False)
    """Those made since the last call of an intervention ended."""

    def __post_init__(self) -> None:
        self.names = tuple(component_name(one) for one in self.interventions)
        self.states = [{} for _ in self.interventions]
        self.resets = [0 for _ in self.interventions]
        self._at = {
            verb: [n for n, one in enumerate(self.interventions) if verb in overridden_hooks(type(one))]
            for verb in HOOKS
        }
        require_gradients_possible(self.model)
        self._dtype = dtype_in(self.model)
        self._watching = any(getattr(one, "needs_activity", False) for one in self.interventions)

    def begin(self, place: TrainStep, inputs: Tensor, targets: Tensor) -> None:
        """Before the first step of a mega-batch; a few of its samples show how the network is made."""
        self._batch = inputs, targets
        self.resets = [0 for _ in self.interventions]
        self._tell("begin", place)

    @contextmanager
    def step(self, place: TrainStep, inputs: Tensor, targets: Tensor) -> Iterator[StepHooks]:
        """Around one training step, from its forward pass until the optimizer has stepped."""
        if not self.interventions:
            yield StepHooks(self, place, None, {})
            return
        self._batch = inputs, targets
        with self._settings():
            readers = [reader for group in self._subject().units for reader in group.readers] if self._watching else []
        with capture_inputs(self.model, readers) as seen:
            step = StepHooks(self, place, (inputs, targets), seen)
            with self._complete(step):
                yield step
        if not step.skipped:
            self._tell("after_step", place, step)

    @contextmanager
    def _complete(self, step: StepHooks) -> Iterator[None]:
        """Refuse a step of an optimizer in which an intervention was not let act that acts before it.

        Any optimizer that trains the model is stopped before it steps, or after that if it was given a closure, which
        runs within. A step left by ``continue`` comes to none.
        """
        if not (self._at["loss"] or self._at["before_step"]):
            yield
            return
        own = set(self.model.parameters())

        def trains(optimizer: Optimizer) -> bool:
            return any(p in own for group in optimizer.param_groups for p in group["params"])

        def before(optimizer: Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            if trains(optimizer) and not any(map(callable, (*arguments, *named.values()))):
                step.require_complete()

        def after(optimizer: Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            if trains(optimizer):
                step.require_complete()

        handles = register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def who_acts(self, verb: str) -> list[str]:
        """The names of those who act at a moment."""
        return [self.names[number] for number in self._at[verb]]

    def after_epoch(self, place: TrainStep) -> None:
        """After the last step of an epoch."""
        self._tell("after_epoch", place)

    def memory(self, component: object) -> Mapping[str, Tensor]:
        """What ``component`` kept while training; nothing where it was not attached."""
        for one, state in zip(self.interventions, self.states, strict=True):
            if one is component or (type(one) is type(component) and one == component):
                return state
        return {}

    def require_tensors(self) -> None:
        """``ComponentError`` where an intervention keeps what no checkpoint can hold."""
        for who, state in zip(self.names, self.states, strict=True):
            kept: Mapping[str, object] = state
            for name, value in kept.items():
                if not isinstance(value, Tensor):
                    raise ComponentError(f"{who} keeps '{name}' in its state, {type(value).__name__} and no tensor")

    def terms(self, step: StepHooks) -> Tensor | float:
        """The sum of what interventions add to the loss of a step."""
        terms = []
        for number in self._at["loss"]:
            term = self._called("loss", number, step.place, step)
            if term is None:
                continue
            who = self.names[number]
            if not isinstance(term, Tensor) or term.ndim:
                what = f"a tensor of shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
                raise ComponentError(f"{who}: a term of the loss is a tensor with one number, not {what}")
            if self.trying and not bool(term.isfinite()):
                raise ComponentError(f"{who}: its term of the loss is {float(term)}")
            terms.append(term)
        return sum(terms[1:], terms[0]) if terms else 0.0

    def _tell(self, verb: str, place: TrainStep, step: StepHooks | None = None) -> None:
        for number in self._at[verb]:
            self._called(verb, number, place, step)

    def _called(self, verb: str, number: int, place: TrainStep, step: StepHooks | None) -> Any:
        """One intervention, at its moment; what it draws from the global random state shifts nobody else's draws."""
        component = self.interventions[number]
        seeds = self.seeds.within(place.mega_batch, place.epoch, "intervention", verb, number, place.step)
        moment = self._moment(number, seeds, place, step)
        who = f"the intervention {self.names[number]}"
        with self._settings(), component_call(who), seeded_rng(seeds.number("global")), self._counting():
            answer = getattr(component, verb)(moment)
        self._warn_of_repeats(who)
        return answer

    def _warn_of_repeats(self, who: str) -> None:
        """One warning, as soon as an intervention has drawn fresh values that another build of the network has too."""
        contexts, self._contexts = self._contexts, []
        for line in (context.repeated for context in contexts if not self.warned):
            if line is not None:
                self.warned = True
                _log.warning("%s: %s", who, line)

    def _settings(self) -> AbstractContextManager[None]:
        return scoring_settings(self._dtype, self._reported)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """What is run on the model itself counts, backward too where it can be; a probe counts for itself."""

        def ran(_: nn.Module, __: Any, outputs: Any) -> None:
            lent = self._examined is not None and self._examined[1].standing.lent
            if not lent and isinstance(outputs, Tensor) and outputs.ndim:
                self.passes.add(len(outputs), len(outputs) if outputs.requires_grad else 0)

        handle = self.model.register_forward_hook(ran)
        try:
            yield
        finally:
            handle.remove()

    def _moment(self, number: int, seeds: Seeds, place: TrainStep, step: StepHooks | None) -> InterventionContext:
        component, state = self.interventions[number], self.states[number]
        inputs, targets = (None, None) if step is None or step.batch is None else step.batch
        watches = step is not None and getattr(component, "needs_activity", False)
        return InterventionContext(
            model=self.model,
            optimizer=self.optimizer,
            state=state,
            rng=seeds.torch("rng"),
            mega_batch=place.mega_batch,
            epoch=place.epoch,
            step=place.step,
            inputs=inputs,
            targets=targets,
            make_context=cache(partial(self._context, self.interventions[number], state, seeds)),
            compute_activity=step.activity if watches and step is not None else dict,
            apply=partial(self._apply, number),
        )

    def _subject(self) -> ModelView:
        """The model as it is now. What is found on a batch is kept until other parameters are trained."""
        if self._batch is None:
            raise OptionError(
                "an intervention asks how the network is made before any sample has come: call begin(), or make a step"
            )
        trained = tuple(name for name, p in self.model.named_parameters() if p.requires_grad)
        if self._examined is None or self._examined[0] != trained:
            self._examined = trained, ModelView.of(self.model, None, self.loss, self.seeds, DEFAULT_SCORING, self.past)
        return replace(self._examined[1], batches=ReplayableBatches([self._batch]), passes=self.passes)

    def _context(self, component: Intervention, state: dict[str, Tensor], seeds: Seeds) -> ResetContext:
        context = ResetContext(replace(self._subject(), seeds=seeds), seeds, component, state)
        self._contexts.append(context)
        return context

    def _apply(self, number: int, changes: Iterable[Change]) -> int:
        subject, who = self._subject(), self.names[number]
        names, ready = {*subject.targets, *subject.buffers}, partial(subject.require_back, who)
        with all_or_nothing() as undo:
            tally = apply(self.model, changes, self.optimizer, names, who, undo, ready)
        reset = sum(layer.reset for layer in tally.layers.values())
        self.resets[number] += reset
        return reset


@dataclass(eq=False)
class StepHooks:
    """One training step, as the interventions see it."""

    acting: InterventionRunner
    place: TrainStep
    batch: Batch | None
    seen: Mapping[str, Tensor]
    skipped: bool = False
    _told: set[str] = field(default_factory=set, init=False)

    def require_complete(self) -> None:
        """``OptionError`` names an intervention that acts before the optimizer steps and was not let."""
        calls = {
            "loss": "adds to the loss, and this step left it out: add step.loss() to the loss before loss.backward()",
            "before_step": "acts before the optimizer steps, and this step left it out: call step.before() after "
            "loss.backward() and before optimizer.step()",
        }
        for verb, call in calls.items():
            for who in self.acting.who_acts(verb) if verb not in self._told else ():
                raise OptionError(f"{who} {call}, or call step.skip() if the optimizer is not to step")

    def skip(self) -> None:
        """The optimizer will not step, since what it would step by is not finite: no intervention hears of a step."""
        self.skipped = True

    def loss(self) -> Tensor | float:
        """The sum of the terms that interventions add to the loss; ask once, after the forward pass."""
        self._told.add("loss")
        return self.acting.terms(self)

    def before(self) -> None:
        """With the gradients in ``.grad``, before the optimizer steps."""
        self._told.add("before_step")
        self.acting._tell("before_step", self.place, self)

    def activity(self) -> Mapping[str, Tensor]:
        """What the readers of each group of units saw in this step's forward pass."""
        return self._activity

    @cached_property
    def _activity(self) -> Mapping[str, Tensor]:
        with self.acting._settings():
            return self._measured()

    def _measured(self) -> Mapping[str, Tensor]:
        units = self.acting._subject().units
        if units and not self.seen:
            raise OptionError(
                "no layer was seen at work in this step: run the forward pass inside it, and of a model not compiled"
            )
        batch = 0 if self.batch is None else len(self.batch[0])
        with torch.no_grad():
            return activity_in(units, self.acting.model, self.seen, batch)
