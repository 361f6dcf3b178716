"""Interventions at work on a model and its optimizer: called at their moments, in anybody's loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from forgetkit.contracts import Change, Intervention, Moment
from forgetkit.errors import OptionError
from forgetkit.forgetting.apply import all_or_nothing, apply
from forgetkit.forgetting.context import Context
from forgetkit.forgetting.fresh import NOTHING_KNOWN, Past
from forgetkit.forgetting.guard import untouched
from forgetkit.forgetting.probe import Loss, ReadAgain
from forgetkit.forgetting.subject import Scoring, Subject
from forgetkit.forgetting.units import activity_in, inputs_seen
from forgetkit.seeding import Seeds

VERBS = ("begin", "loss", "before_step", "after_step", "after_epoch")
"""The moments at which an intervention may act, by the method it overrides."""


def moments_of(component: type) -> tuple[str, ...]:
    """When an intervention acts: the methods that its class overrides."""
    return tuple(verb for verb in VERBS if getattr(component, verb) is not getattr(Intervention, verb))


@dataclass(frozen=True)
class Place:
    """Where training stands: ``mega_batch`` and ``epoch`` count from 1, ``step`` from 0 in the epoch."""

    mega_batch: int
    epoch: int = 1
    step: int = 0


@dataclass(eq=False)
class Acting:
    """The interventions of a training, what they keep, and the moments at which each acts."""

    model: nn.Module
    optimizer: Optimizer
    interventions: Sequence[Intervention]
    seeds: Seeds
    past: Past = NOTHING_KNOWN
    loss: Loss = cross_entropy
    states: list[dict[str, Tensor]] = field(init=False)
    _sample: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.states = [{} for _ in self.interventions]
        self._at = {
            verb: [n for n, one in enumerate(self.interventions) if verb in moments_of(type(one))] for verb in VERBS
        }
        self._watching = any(getattr(one, "needs_activity", False) for one in self.interventions)

    def begin(self, place: Place, inputs: Tensor, targets: Tensor) -> None:
        """Before the first step of a mega-batch; two of its samples show how the network is made."""
        self._note(inputs, targets)
        self._tell("begin", place)

    @contextmanager
    def step(self, place: Place, inputs: Tensor, targets: Tensor) -> Iterator[Step]:
        """Around one training step, from its forward pass until the optimizer has stepped."""
        if not self.interventions:
            yield Step(self, place, None, None, {})
            return
        self._note(inputs, targets)
        if not self._watching:
            step = Step(self, place, inputs, targets, {})
            yield step
        else:
            units = self._subject.units
            with inputs_seen(self.model, [reader for group in units for reader in group.readers]) as seen:
                step = Step(self, place, inputs, targets, seen)
                yield step
        self._tell("after_step", place, step)

    def after_epoch(self, place: Place) -> None:
        """After the last step of an epoch."""
        self._tell("after_epoch", place)

    def memory(self, component: object) -> Mapping[str, Tensor]:
        """What ``component`` kept while training; nothing where it was not attached."""
        for one, state in zip(self.interventions, self.states, strict=True):
            if one is component or (type(one) is type(component) and one == component):
                return state
        return {}

    def _note(self, inputs: Tensor, targets: Tensor) -> None:
        if self._sample is None:
            self._sample = inputs[:2].detach(), targets[:2]

    def _tell(self, verb: str, place: Place, step: Step | None = None) -> None:
        for number in self._at[verb]:
            getattr(self.interventions[number], verb)(self.moment(verb, number, place, step))

    def moment(self, verb: str, number: int, place: Place, step: Step | None) -> Moment:
        """What an intervention is told at its moment."""
        component = self.interventions[number]
        seeds = self.seeds.within(place.mega_batch, place.epoch, "intervention", verb, number, place.step)
        inputs, targets = (None, None) if step is None else (step.inputs, step.targets)
        return Moment(
            model=self.model,
            optimizer=self.optimizer,
            state=self.states[number],
            rng=seeds.torch("rng"),
            mega_batch=place.mega_batch,
            epoch=place.epoch,
            step=place.step,
            inputs=inputs,
            targets=targets,
            look=partial(self._context, component, number, seeds, inputs, targets),
            see=dict if step is None or not getattr(component, "needs_activity", False) else step.activity,
            apply=partial(self._apply, type(component).__name__),
        )

    @cached_property
    def _subject(self) -> Subject:
        if self._sample is None:
            raise OptionError("an intervention asks how the network is made before any sample has come: begin() first")
        with untouched(self.model, "examining", self.seeds.number("lent")):
            return Subject.of(self.model, [self._sample], self.loss, self.seeds, Scoring(), self.past)

    def _context(
        self, component: Intervention, number: int, seeds: Seeds, inputs: Tensor | None, targets: Tensor | None
    ) -> Context:
        subject = self._subject
        if inputs is not None and targets is not None:
            subject = replace(subject, batches=ReadAgain([(inputs, targets)]))
        return Context(subject, seeds, type(component).__name__, self.states[number])

    def _apply(self, who: str, changes: Iterable[Change]) -> int:
        subject = self._subject
        with all_or_nothing() as undo:
            names = {*subject.targets, *subject.buffers}
            tally = apply(self.model, changes, self.optimizer, names, who, undo, partial(subject.require_back, who))
        return sum(layer.reset for layer in tally.layers.values())


@dataclass(eq=False)
class Step:
    """One training step, as the interventions see it."""

    acting: Acting
    place: Place
    inputs: Tensor | None
    targets: Tensor | None
    seen: Mapping[str, Tensor]

    def loss(self) -> Tensor | float:
        """The sum of the terms that interventions add to the loss; ask once, after the forward pass."""
        acting = self.acting
        terms = [
            term
            for number in acting._at["loss"]
            if (term := acting.interventions[number].loss(acting.moment("loss", number, self.place, self))) is not None
        ]
        return sum(terms[1:], terms[0]) if terms else 0.0

    def before(self) -> None:
        """With the gradients in ``.grad``, before the optimizer steps."""
        self.acting._tell("before_step", self.place, self)

    def activity(self) -> Mapping[str, Tensor]:
        """What the readers of each group of units saw in this step's forward pass."""
        return self._activity

    @cached_property
    def _activity(self) -> Mapping[str, Tensor]:
        with torch.no_grad():
            return activity_in(self.acting._subject.units, self.acting.model, self.seen)
