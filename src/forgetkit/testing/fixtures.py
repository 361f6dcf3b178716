"""What a run hands to a component, without the checks and repairs that a run adds."""

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
from forgetkit.testing.comparing import raised_error, tensors_of
from forgetkit.testing.networks import NetworkFixture
from forgetkit.testing.promise import NotApplicable
from forgetkit.unlearning import ModelHistory, Scoring
from forgetkit.unlearning.interventions import InterventionRunner, TrainStep
from forgetkit.unlearning.model_view import ModelProbe, ModelView
from forgetkit.unlearning.reset_context import ResetContext

SEEDS = Seeds(20230101).within("conformance")


@dataclass(eq=False)
class RecordedRequests:
    """What a component has requested so far."""

    samples: set[bytes] = field(default_factory=set)
    references: set[str] = field(default_factory=set)
    selections: int = 0


class WatchedProbe(ModelProbe):
    """A probe that records requests."""

    def __init__(self, requests: RecordedRequests, *host: Any) -> None:
        super().__init__(*host)
        self._requests = requests

    def batches(self, samples: int | float | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, and record their samples."""
        for inputs, targets in super().batches(samples):
            self._requests.samples.update(sample.contiguous().numpy().tobytes() for sample in inputs)
            yield inputs, targets

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """Return reference values, and record which."""
        self._requests.references.add(which)
        return super().reference(which)


@dataclass(eq=False)
class WatchedContext(ResetContext):
    """A context that records requests, and refuses those that come too late."""

    requests: RecordedRequests = field(default_factory=RecordedRequests)
    under_way: bool = False
    """Whether the method has yielded a change."""
    out: int = 0
    """The number of probes that the method holds."""

    def select(
        self, fraction: float, *, which: Which = "lowest", ties: Ties = "random", rounding: Rounding = "down"
    ) -> Mapping[str, Tensor]:
        """Select entries; raises ``LateRequestError`` after the first change."""
        self.requests.selections += 1
        if self.under_way:
            raise LateRequestError(
                "it calls select() after its first change, when the scores belong to another network; call it before"
            )
        return super().select(fraction, which=which, ties=ties, rounding=rounding)

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """Return reference values, and record which."""
        self.requests.references.add(which)
        return super().reference(which)

    @contextmanager
    def probe(self) -> Iterator[Probe]:
        """Yield a probe that records requests."""
        with super().probe():
            self.out += 1
            try:
                yield WatchedProbe(self.requests, self.view, self.name, self.memory, self.targets)
            finally:
                self.out -= 1


class LateRequestError(Exception):
    """The method called ``select`` after its first change."""


def history_of(model: nn.Module, requests: RecordedRequests | None = None) -> ModelHistory:
    """Return a history: the initial weights were twice as large, the previous ones a tenth smaller."""
    initial, previous = (
        {name: (t.detach() * factor).to(t.dtype) for name, t in tensors_of(model).items()} for factor in (2.0, 0.9)
    )

    def recorded(name: str) -> Tensor:
        if requests is not None:
            requests.references.add("previous")
        return previous[name]

    return ModelHistory(initial=initial.__getitem__, previous=recorded, seeds=SEEDS)


def view_of(fixture: NetworkFixture) -> ModelView:
    """Return a view of the network, in eval mode."""
    model = fixture.model.eval()
    return ModelView.of(model, fixture.batches, cross_entropy, SEEDS, Scoring(), history_of(model))


def memory_of(fixture: NetworkFixture, component: Any) -> Mapping[str, Tensor]:
    """Return what an intervention keeps after a few training steps of a copy of the network; for others nothing."""
    if not isinstance(component, Intervention):
        return {}
    runner = runner_on(NetworkFixture(copy.deepcopy(fixture.model), fixture.batches), component)
    try:
        train(runner, fixture.batches, [(1, 1)])
    except Exception as error:  # other promises are about the training
        raise NotApplicable(f"during the training of this network {raised_error(error)}") from error
    return runner.memory(component)


def runner_on(
    fixture: NetworkFixture, component: Intervention, history: ModelHistory | None = None
) -> InterventionRunner:
    """Return a runner of ``component`` on the network, with an optimizer that has momentum."""
    parameters = [p for p in fixture.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    return InterventionRunner(fixture.model, optimizer, [component], SEEDS, history or history_of(fixture.model))


def train(
    runner: InterventionRunner,
    batches: Sequence[tuple[Tensor, Tensor]],
    epochs: Sequence[tuple[int, int]],
    noise: int = 0,
) -> None:
    """Train with an intervention over ``epochs``: pairs (mega-batch, epoch), both from 1.

    ``noise`` selects the global random state.
    """
    model, optimizer = runner.model, runner.optimizer
    dtype = next(model.parameters()).dtype  # a network in half precision takes inputs in half precision
    for mega_batch, epoch in epochs:
        model.train()
        with seeded_rng(SEEDS.number("noise", mega_batch, epoch, noise)):
            if epoch == 1:
                runner.begin(TrainStep(mega_batch), batches[0])
            for number, (inputs, targets) in enumerate(batches):
                with runner.step(TrainStep(mega_batch, epoch, number), (inputs, targets)) as step:
                    loss = cross_entropy(model(inputs.to(dtype)), targets) + step.loss()
                    optimizer.zero_grad()
                    loss.backward()
                    step.before()
                    optimizer.step()
            runner.after_epoch(TrainStep(mega_batch, epoch, len(batches)))


@contextmanager
def scoring_stage(fixture: NetworkFixture, criterion: Any, requests: RecordedRequests) -> Iterator[WatchedProbe]:
    """Yield the probe for ``criterion``; side effects of scoring stay."""
    memory = memory_of(fixture, criterion)
    with torch.inference_mode(False), torch.enable_grad():
        yield WatchedProbe(requests, view_of(fixture), type(criterion).__name__, memory)


@dataclass(frozen=True)
class Size:
    """Scores entries by their size, or at random."""

    shuffled: bool = False

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return ``|θ|``, or a random number for each entry."""
        if self.shuffled:
            return {name: torch.rand(t.shape, generator=probe.rng_for(name)) for name, t in probe.targets.items()}
        return {name: target.abs() for name, target in probe.targets.items()}


@contextmanager
def proposing_stage(
    fixture: NetworkFixture, method: Any, *, shuffled: bool = False
) -> Iterator[tuple[WatchedContext, torch.optim.Optimizer]]:
    """Yield the context for ``method``, and the optimizer that trained the network."""
    memory = memory_of(fixture, method)
    view = view_of(fixture)
    optimizer = _used_optimizer(fixture)
    scores = view.scores(Size(shuffled))
    yield WatchedContext(view, method, memory, scores, "Size"), optimizer


def _used_optimizer(fixture: NetworkFixture) -> torch.optim.Optimizer:
    """Return an optimizer with momentum after a step with gradients of one."""
    parameters = [p for p in fixture.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer
