"""Interventions under examination: what counts as a write, and what the messages name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers.broken_interventions import NoIntervention, Resetting, trained
from helpers.conformance import broken_in
from torch import Tensor

from forgetkit.contracts import Intervention, InterventionContext
from forgetkit.testing import BrokenPromise, check_intervention, examine


def test_the_class_is_to_be_inherited_from() -> None:
    with pytest.raises(BrokenPromise, match="frozen-dataclass"):
        check_intervention(NoIntervention)
    assert "runs" in broken_in(examine("interventions", NoIntervention))


@pytest.mark.slow
def test_what_the_host_clears_under_a_mask_is_no_touch() -> None:
    verdicts = {verdict.promise.name: verdict for verdict in examine("interventions", Resetting)}
    assert verdicts["touches"].status == "kept", verdicts["touches"].reason


@dataclass(frozen=True)
class Looks(Intervention):
    """Asks how the network is made and measures it in every moment of a step."""

    touches: ClassVar = frozenset({"loss", "gradients", "weights"})

    def loss(self, moment: InterventionContext) -> Tensor:
        scale = self._seen(moment, "loss")
        return 0.01 * scale * torch.stack([p.square().sum() for p in trained(moment)]).sum()

    def before_step(self, moment: InterventionContext) -> None:
        scale = self._seen(moment, "before")
        for parameter in trained(moment):
            if parameter.grad is not None:
                parameter.grad.mul_(scale)

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        scale = self._seen(moment, "after")
        for name, parameter in moment.model.named_parameters():
            if name in moment.context.names("conv-linear"):
                parameter.mul_(1 - 0.1 * scale)

    def _seen(self, moment: InterventionContext, when: str) -> Tensor:
        """Between 0 and 1, from the layers, from the batch in eval mode and from a draw of the context's."""
        context = moment.context
        first = next(iter(context.targets))
        with context.probe() as probe:
            outputs = torch.stack([probe.outputs(inputs).square().mean() for inputs, _ in probe.batches()]).mean()
            slope = torch.stack([grad.square().sum() for grad in probe.mean_grads().values()]).sum()
        drawn = context.fresh(first).square().sum() + torch.rand((), generator=context.rng(first))
        moment.state[when] = torch.sigmoid(outputs + slope + drawn + len(context.layers)).detach()
        return moment.state[when]


@pytest.mark.slow
def test_intervention_that_only_reads_the_network_is_accepted() -> None:
    verdicts = {verdict.promise.name: (verdict.status, verdict.reason) for verdict in examine("interventions", Looks)}
    assert set(verdicts.values()) == {("kept", "")}, verdicts


def test_non_scalar_loss_term_error_names_the_intervention() -> None:
    with pytest.raises(BrokenPromise, match="'runs' of interventions: it raised ComponentError: Rows: a term of the"):
        check_intervention(Rows)


@dataclass(frozen=True)
class Rows(Intervention):
    """Adds a number for each row to the loss."""

    def loss(self, moment: InterventionContext) -> Tensor:
        return trained(moment)[0].flatten(1).sum(1)


@dataclass(frozen=True)
class Seldom(Intervention):
    """Acts once in a thousand steps.

    every: how many steps.
    """

    every: int = 1000
    touches: ClassVar = frozenset({"weights"})

    def after_step(self, moment: InterventionContext) -> None:
        steps = moment.state.setdefault("steps", torch.zeros((), dtype=torch.int64)).add_(1)
        if int(steps) % self.every == 0:
            with torch.no_grad():
                next(p for p in moment.model.parameters() if p.requires_grad and p.ndim > 1).mul_(0.9)


@dataclass(frozen=True)
class Sooner(Seldom):
    """Acts once in a thousand steps, and every third under examination."""

    test_options: ClassVar = {"every": 3}


@pytest.mark.slow
def test_a_class_says_with_which_options_it_can_be_seen_to_act() -> None:
    assert broken_in(examine("interventions", Seldom)) == ["touches"]
    assert broken_in(examine("interventions", Sooner)) == []
    assert broken_in(examine("interventions", Sooner(every=999))) == ["touches"]  # one who says otherwise means it
