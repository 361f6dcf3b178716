"""Interventions at work on a model and its optimizer: each hook is called at its moment, in any training loop."""

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

from forgetkit.contracts import Change, Intervention, InterventionContext, OptimizerStateRule, component_name
from forgetkit.errors import ComponentError, OptionError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import scoring_settings
from forgetkit.unlearning.activity import activity_in, capture_inputs
from forgetkit.unlearning.apply import all_or_nothing, apply
from forgetkit.unlearning.batches import count_samples
from forgetkit.unlearning.followers import NO_FOLLOWERS, Followers
from forgetkit.unlearning.fresh_values import NO_HISTORY, ModelHistory
from forgetkit.unlearning.integrity import component_call, scoring_dtype
from forgetkit.unlearning.model_view import DEFAULT_SCORING, ModelView
from forgetkit.unlearning.objective import Loss, Objective
from forgetkit.unlearning.optimizer_state import OptimizerStates
from forgetkit.unlearning.parametrized_buffers import follow_weights
from forgetkit.unlearning.pass_counter import PassCounter
from forgetkit.unlearning.probe import ReplayableBatches
from forgetkit.unlearning.process_layout import ProcessLayout
from forgetkit.unlearning.protection import NO_PROTECTION, Protection
from forgetkit.unlearning.reset_context import ResetContext
from forgetkit.unlearning.support import require_supported

HOOKS = ("begin", "loss", "before_step", "after_step", "after_epoch")
"""The methods of :class:`forgetkit.contracts.Intervention` that a training loop calls."""

_log = logging.getLogger("forgetkit")


def overridden_hooks(component: type) -> tuple[str, ...]:
    """Return the hooks that a class of interventions overrides."""
    return tuple(hook for hook in HOOKS if getattr(component, hook) is not getattr(Intervention, hook))


@dataclass(frozen=True)
class TrainStep:
    """A position in training: ``mega_batch`` and ``epoch`` count from 1, ``step`` counts from 0 in the epoch."""

    mega_batch: int
    epoch: int = 1
    step: int = 0


@dataclass(eq=False)
class InterventionRunner:
    """The interventions of a training run: what they store, and the calls of their hooks.

    Args:
        model: The network.
        optimizer: The optimizer that trains it. If several do, the first one.
        interventions: The components, in the order in which they are called.
        seeds: Fix every draw of theirs.
        history: The model's past.
        loss: Maps (outputs, targets) to the batch's mean loss; or an objective, for batches of any shape.
        check_finite: Check that terms of the loss are finite, which is too slow for every step of a training run.
        passes: Counts the samples that interventions run through the model.
        optimizers: All that train the model, if there are several.
        followers: Networks that get the same changes.
        state_rules: Rules of third parties for the state of their optimizers.
        protection: What may not change.
        layout: The processes that hold replicas: activity and batches that interventions look at come from all.
    """

    model: nn.Module
    optimizer: Optimizer
    interventions: Sequence[Intervention]
    seeds: Seeds
    history: ModelHistory = NO_HISTORY
    loss: Loss | Objective | None = cross_entropy
    check_finite: bool = False
    passes: PassCounter = field(default_factory=PassCounter)
    optimizers: object = None
    followers: Followers = NO_FOLLOWERS
    state_rules: Sequence[OptimizerStateRule] = ()
    protection: Protection = NO_PROTECTION
    layout: ProcessLayout = field(default_factory=ProcessLayout)
    names: tuple[str, ...] = field(init=False)
    """The names of the interventions in messages."""
    states: list[dict[str, Tensor]] = field(init=False)
    resets: list[int] = field(init=False)
    """How many entries each has reset in this mega-batch through ``moment.apply``."""
    _reported: set[str] = field(default_factory=set, init=False)
    """What a warning has said: components that changed torch's settings, and state that was not cleared."""
    warned: bool = field(default=False, init=False)
    """Whether a warning has said that fresh values repeat."""
    _batch: Any = field(default=None, init=False)
    _view: tuple[tuple[str, ...], ModelView] | None = field(default=None, init=False)
    """The trained parameters' names, and the view made while these were trained."""
    _contexts: list[ResetContext] = field(default_factory=list, init=False)
    """Those made during the current call of an intervention."""

    def __post_init__(self) -> None:
        self.names = tuple(component_name(one) for one in self.interventions)
        self.states = [{} for _ in self.interventions]
        self.resets = [0] * len(self.interventions)
        self._by_hook = {
            hook: [n for n, one in enumerate(self.interventions) if hook in overridden_hooks(type(one))]
            for hook in HOOKS
        }
        require_supported(self.model)
        self._dtype = scoring_dtype(self.model)
        self._needs_activity = any(getattr(one, "needs_activity", False) for one in self.interventions)

    def begin(self, at: TrainStep, batch: Any) -> None:
        """Begin a mega-batch; a few of its samples show the network's structure."""
        self._batch = batch
        self.resets = [0] * len(self.interventions)
        self._require_equal_replicas()
        self._call_all("begin", at)

    @contextmanager
    def step(self, at: TrainStep, batch: Any) -> Iterator[StepHooks]:
        """Wrap one training step, from its forward pass until the optimizer has stepped."""
        if not self.interventions:
            yield StepHooks(self, at, batch, {})
            return
        self._batch = batch
        readers: list[str] = []
        if self._needs_activity:
            with self.layout.agreeing(), self._settings():
                readers = [reader for group in self._current_view().units for reader in group.readers]
        with capture_inputs(self.model, readers) as captured:
            step = StepHooks(self, at, batch, captured)
            with self._complete(step):
                yield step
        if not step.skipped:
            self._call_all("after_step", at, step)

    @contextmanager
    def _complete(self, step: StepHooks) -> Iterator[None]:
        """Refuse an optimizer step if the loop left out an intervention that acts before it.

        Any optimizer that trains the model is stopped before it steps; one with a closure after, since the closure
        runs inside. A step left by ``continue`` has no optimizer step.
        """
        if not (self._by_hook["loss"] or self._by_hook["before_step"]):
            yield
            return
        own = set(self.model.parameters())

        def trains(optimizer: Optimizer) -> bool:
            return any(p in own for group in optimizer.param_groups for p in group["params"])

        def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if trains(optimizer) and not any(map(callable, (*args, *kwargs.values()))):
                step.require_complete()

        def after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if trains(optimizer):
                step.require_complete()

        with register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after):
            yield

    def with_hook(self, hook: str) -> list[str]:
        """Return the names of the interventions that have a hook."""
        return [self.names[number] for number in self._by_hook[hook]]

    def after_epoch(self, at: TrainStep) -> None:
        """End an epoch, after its last step."""
        self._require_equal_replicas()
        self._call_all("after_epoch", at)

    def _require_equal_replicas(self) -> None:
        """Raise ``ComponentError`` in all processes if replicas have come apart since the last call."""
        with self.layout.agreeing():
            self.layout.require_equal_parameters(self.model)

    def memory(self, component: object) -> Mapping[str, Tensor]:
        """Return what ``component`` stored while training; nothing if it was not attached."""
        for one, state in zip(self.interventions, self.states, strict=True):
            if one is component or (type(one) is type(component) and one == component):
                return state
        return {}

    def require_tensors(self) -> None:
        """Raise ``ComponentError`` if an intervention stores what no checkpoint can hold."""
        for owner, state in zip(self.names, self.states, strict=True):
            stored: Mapping[str, object] = state
            for name, value in stored.items():
                if not isinstance(value, Tensor):
                    raise ComponentError(f"{owner} keeps '{name}' in its state, {type(value).__name__} and no tensor")

    def loss_terms(self, step: StepHooks) -> Tensor | float:
        """Return the sum of the terms that interventions add to the loss of a step."""
        total: Tensor | None = None
        for number in self._by_hook["loss"]:
            term = self._call("loss", number, step.at, step)
            if term is None:
                continue
            name = self.names[number]
            if not isinstance(term, Tensor) or term.ndim:
                what = f"a tensor of shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
                raise ComponentError(f"{name}: a term of the loss is a tensor with one number, not {what}")
            if self.check_finite and not bool(term.isfinite()):
                raise ComponentError(f"{name}: its term of the loss is {float(term)}")
            total = term if total is None else total + term
        return 0.0 if total is None else total

    def _call_all(self, hook: str, at: TrainStep, step: StepHooks | None = None) -> None:
        for number in self._by_hook[hook]:
            self._call(hook, number, at, step)

    def _call(self, hook: str, number: int, at: TrainStep, step: StepHooks | None) -> Any:
        """Call one hook; what it draws from the global random state shifts no other draw."""
        seeds = self.seeds.within(at.mega_batch, at.epoch, "intervention", hook, number, at.step)
        context = self._make_intervention_context(number, seeds, at, step)
        name = f"the intervention {self.names[number]}"
        with (
            self.layout.agreeing(),
            self._settings(),
            component_call(name),
            seeded_rng(seeds.number("global")),
            self._counting(),
        ):
            answer = getattr(self.interventions[number], hook)(context)
        self._warn_of_repeats(name)
        return answer

    def _warn_of_repeats(self, name: str) -> None:
        """Warn once if an intervention has drawn fresh values that another build of the network has too."""
        contexts, self._contexts = self._contexts, []
        for line in (context.repeated for context in contexts if not self.warned):
            if line is not None:
                self.warned = True
                _log.warning("%s: %s", name, line)

    def _warn_of_state(self, states: OptimizerStates) -> None:
        """Warn once of each kind of state that knows the old values still."""
        for line in states.warnings:
            if line not in self._reported:
                self._reported.add(line)
                _log.warning("%s", line)

    def _settings(self) -> AbstractContextManager[None]:
        return scoring_settings(self._dtype, self._reported)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count samples that run through the model itself, backward too if they can; a probe counts for itself."""

        def count(_: nn.Module, __: Any, outputs: Any) -> None:
            in_use = self._view is not None and self._view[1].cache.in_use
            if not in_use and isinstance(outputs, Tensor) and outputs.ndim:
                self.passes.add(len(outputs), len(outputs) if outputs.requires_grad else 0)

        with self.model.register_forward_hook(count):
            yield

    def _make_intervention_context(
        self, number: int, seeds: Seeds, at: TrainStep, step: StepHooks | None
    ) -> InterventionContext:
        component, state = self.interventions[number], self.states[number]
        batch = (None, None) if step is None else step.batch
        inputs, targets = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
        return InterventionContext(
            model=self.model,
            optimizer=self.optimizer,
            state=state,
            rng=seeds.torch("rng"),
            mega_batch=at.mega_batch,
            epoch=at.epoch,
            step=at.step,
            inputs=inputs,
            targets=targets,
            make_context=cache(partial(self._make_reset_context, component, state, seeds)),
            compute_activity=dict if step is None or not getattr(component, "needs_activity", False) else step.activity,
            apply=partial(self._apply, number),
        )

    def _current_view(self) -> ModelView:
        """Return a view of the model as it is now; what a batch has shown is kept while the same parameters train."""
        if self._batch is None:
            raise OptionError(
                "an intervention asks how the network is made before any sample has come: call begin(), or make a step"
            )
        trained = tuple(name for name, p in self.model.named_parameters() if p.requires_grad)
        if self._view is None or self._view[0] != trained:
            self._view = (
                trained,
                ModelView.of(self.model, None, self.loss, self.seeds, DEFAULT_SCORING, self.history, self.protection),
            )
        return replace(
            self._view[1], batches=ReplayableBatches(self.layout.gathered([self._batch]) or ()), passes=self.passes
        )

    def _make_reset_context(self, component: Intervention, state: dict[str, Tensor], seeds: Seeds) -> ResetContext:
        context = ResetContext(replace(self._current_view(), seeds=seeds), component, state)
        self._contexts.append(context)
        return context

    def _require_known_names(self) -> None:
        """Raise ``OptionError`` if what followers and ``protect=`` know by name has other names by now."""
        held = self.protection.touched.union(*self.followers.tensors)
        now = {name for name, _ in (*self.model.named_parameters(), *self.model.named_buffers())}
        if missing := held - now:
            raise OptionError(
                f"the network had a '{min(missing)}' when it was attached (pruned or parametrised since?): attach it "
                "again, with its protect= and followers="
            )

    def _apply(self, number: int, changes: Iterable[Change]) -> int:
        view, name = self._current_view(), self.names[number]
        names, require_ready = {*view.targets, *view.buffers}, partial(view.require_not_in_use, name)
        states = OptimizerStates.of(self.optimizers or self.optimizer, plugins=self.state_rules)
        self._require_known_names()
        with all_or_nothing() as undo:
            applied = apply(
                self.model,
                changes,
                states,
                names,
                name,
                undo,
                require_ready,
                followers=self.followers,
                protected=self.protection.entries(self.model),
            )
            moved = follow_weights(self.model, applied.layers.keys(), undo, protected=self.protection.touched)
            self.followers.write_buffers(moved, self.model, undo)
            self.layout.require_equal_parameters(self.model, applied.layers)
        self._warn_of_state(states)
        self.resets[number] += applied.reset
        return applied.reset


@dataclass(eq=False)
class StepHooks:
    """One training step, as a training loop calls the interventions in it."""

    runner: InterventionRunner
    at: TrainStep
    batch: Any
    captured: Mapping[str, Tensor]
    """The inputs of the readers of units, by the module's name."""
    skipped: bool = False
    _called: set[str] = field(default_factory=set, init=False)

    def require_complete(self) -> None:
        """Raise ``OptionError`` for an intervention that acts before the optimizer steps and was left out."""
        calls = {
            "loss": "adds to the loss, and this step left it out: add step.loss() to the loss before loss.backward()",
            "before_step": "acts before the optimizer steps, and this step left it out: call step.before() after "
            "loss.backward() and before optimizer.step()",
        }
        for hook, call in calls.items():
            for name in self.runner.with_hook(hook) if hook not in self._called else ():
                raise OptionError(f"{name} {call}, or call step.skip() if the optimizer is not to step")

    def skip(self) -> None:
        """Declare that the optimizer will not step, as with gradients that are NaN; ``after_step`` is skipped."""
        self.skipped = True

    def loss(self) -> Tensor | float:
        """Return the sum of the terms that interventions add to the loss; call it once, after the forward pass."""
        self._called.add("loss")
        return self.runner.loss_terms(self)

    def before(self) -> None:
        """Call ``before_step``: gradients are in ``.grad``, and the optimizer has not stepped."""
        self._called.add("before_step")
        self.runner._call_all("before_step", self.at, self)

    def activity(self) -> Mapping[str, Tensor]:
        """Return what the readers of each group of units saw in this step's forward pass, in all replicas."""
        return self._activity

    @cached_property
    def _activity(self) -> Mapping[str, Tensor]:
        with self.runner._settings(), torch.no_grad():
            units = self.runner._current_view().units
            if units and not self.captured:
                raise OptionError(
                    "no layer ran in this step: run the forward pass inside it, and of a model that is not compiled"
                )
            own = activity_in(units, self.runner.model, self.captured, count_samples(self.batch))
            return self.runner.layout.joined(own)
