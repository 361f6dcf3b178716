"""What a run would hand a component, without what a run puts back afterwards or stops at."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from forgetkit.contracts import Intervention, Probe, Reference, Rounding, Ties, Which
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.testing.comparing import raised_error
from forgetkit.testing.networks import NetworkFixture
from forgetkit.testing.promise import NotApplicable
from forgetkit.unlearning import ModelHistory, Scoring
from forgetkit.unlearning.interventions import InterventionRunner, TrainStep
from forgetkit.unlearning.model_view import ModelProbe, ModelView
from forgetkit.unlearning.reset_context import ResetContext

SEEDS = Seeds(20230101).within("conformance")


@dataclass(eq=False)
class RecordedRequests:
    """What a component has asked for so far."""

    samples: set[bytes] = field(default_factory=set)
    references: set[str] = field(default_factory=set)
    selections: int = 0


class WatchedProbe(ModelProbe):
    """A probe that takes note of what it is asked for."""

    def __init__(self, asked: RecordedRequests, *lent: Any) -> None:
        super().__init__(*lent)
        self._asked = asked

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of the subject."""
        for inputs, targets in super().batches(samples):
            self._asked.samples.update(sample.contiguous().numpy().tobytes() for sample in inputs)
            yield inputs, targets

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """That of the subject."""
        self._asked.references.add(which)
        return super().reference(which)


@dataclass(eq=False)
class WatchedContext(ResetContext):
    """A context that takes note of what it is asked for, and when."""

    asked: RecordedRequests = field(default_factory=RecordedRequests)
    under_way: bool = False
    """Whether a change has been yielded."""
    out: int = 0
    """How many probes are lent out."""

    def select(
        self, fraction: float, *, which: Which = "lowest", ties: Ties = "random", rounding: Rounding = "down"
    ) -> Mapping[str, Tensor]:
        """That of any context."""
        self.asked.selections += 1
        if self.under_way:
            raise LateRequestError(
                "it asks select() after its first change; the scores are then those of another network"
            )
        return super().select(fraction, which=which, ties=ties, rounding=rounding)

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """That of any context."""
        self.asked.references.add(which)
        return super().reference(which)

    @contextmanager
    def probe(self) -> Iterator[Probe]:
        """That of any context, watched."""
        with super().probe():
            self.out += 1
            try:
                yield WatchedProbe(self.asked, self.view, self.who, self.memory, self.targets)
            finally:
                self.out -= 1


class LateRequestError(Exception):
    """``select`` was asked when the network had been changed already."""


def past_of(model: nn.Module, asked: RecordedRequests | None = None) -> ModelHistory:
    """A past in which the weights were twice as large once, and a little smaller a while ago."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    initial, previous = (
        {name: (t.detach() * factor).to(t.dtype) for name, t in tensors.items()} for factor in (2.0, 0.9)
    )

    def noted(name: str) -> Tensor:
        if asked is not None:
            asked.references.add("previous")
        return previous[name]

    return ModelHistory(initial=initial.__getitem__, previous=noted, seeds=SEEDS)


def subject_of(situation: NetworkFixture) -> ModelView:
    """The network, examined, in eval mode."""
    model = situation.model.eval()
    return ModelView.of(model, situation.batches, cross_entropy, SEEDS, Scoring(), past_of(model))


def memory_of(situation: NetworkFixture, component: Any) -> Mapping[str, Tensor]:
    """What a component that watches the training too has kept after a few steps with a copy of the network."""
    if not isinstance(component, Intervention):
        return {}
    acting = acting_on(NetworkFixture(copy.deepcopy(situation.model), situation.batches), component)
    try:
        train(acting, situation.batches, [(1, 1)])
    except Exception as error:  # what it does in a training is the subject of promises of its own
        raise NotApplicable(f"while it watches the training of this network {raised_error(error)}") from error
    return acting.memory(component)


def acting_on(
    situation: NetworkFixture, component: Intervention, past: ModelHistory | None = None
) -> InterventionRunner:
    """``component`` at work on the network, with an optimizer that has momentum."""
    parameters = [p for p in situation.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    return InterventionRunner(situation.model, optimizer, [component], SEEDS, past or past_of(situation.model))


def train(
    acting: InterventionRunner,
    batches: Sequence[tuple[Tensor, Tensor]],
    epochs: Sequence[tuple[int, int]],
    noise: int = 0,
) -> None:
    """An ordinary training loop, with what acts at its moments, over ``epochs``: (mega-batch, epoch), both from 1.

    ``noise`` has a part in the global random state that everything runs under.
    """
    model, optimizer = acting.model, acting.optimizer
    dtype = next(model.parameters()).dtype  # a network in half precision takes no other inputs
    for mega_batch, epoch in epochs:
        model.train()
        with seeded_rng(SEEDS.number("noise", mega_batch, epoch, noise)):
            if epoch == 1:
                acting.begin(TrainStep(mega_batch), *batches[0])
            for number, (inputs, targets) in enumerate(batches):
                with acting.step(TrainStep(mega_batch, epoch, number), inputs, targets) as step:
                    loss = cross_entropy(model(inputs.to(dtype)), targets) + step.loss()
                    optimizer.zero_grad()
                    loss.backward()
                    step.before()
                    optimizer.step()
            acting.after_epoch(TrainStep(mega_batch, epoch, len(batches)))


@contextmanager
def scoring_stage(situation: NetworkFixture, criterion: Any, asked: RecordedRequests) -> Iterator[WatchedProbe]:
    """The probe that ``criterion`` would get; what it leaves behind stays."""
    memory = memory_of(situation, criterion)
    with torch.inference_mode(False), torch.enable_grad():
        yield WatchedProbe(asked, subject_of(situation), type(criterion).__name__, memory)


@dataclass(frozen=True)
class Size:
    """Entries by their size, or shuffled."""

    shuffled: bool = False

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """|θ|, or a number drawn for each entry."""
        if self.shuffled:
            return {name: torch.rand(t.shape, generator=probe.rng_for(name)) for name, t in probe.targets.items()}
        return {name: target.abs() for name, target in probe.targets.items()}


@contextmanager
def proposing_stage(
    situation: NetworkFixture, method: Any, *, shuffled: bool = False
) -> Iterator[tuple[WatchedContext, torch.optim.Optimizer]]:
    """The context that ``method`` would get, and the optimizer that has trained the network."""
    memory = memory_of(situation, method)
    subject = subject_of(situation)
    optimizer = _used_optimizer(situation)
    scores = subject.scores(Size(shuffled))
    yield WatchedContext(subject, method, memory, scores, "Size"), optimizer


def _used_optimizer(situation: NetworkFixture) -> torch.optim.Optimizer:
    """Momentum as one gives it that has made a step with gradients of one."""
    parameters = [p for p in situation.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer
