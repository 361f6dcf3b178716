"""Interventions in a loop with batches of any shape, and in a trainer that calls back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from helpers.unlearning_networks import refused
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.contracts import Intervention, InterventionContext
from forgetkit.errors import OptionError
from forgetkit.unlearning.integrity import hooks_on

INPUTS, TARGETS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


class Keyed(nn.Module):
    """Takes keywords and returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = self.body(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


@dataclass(frozen=True, eq=False)
class Watches(Intervention):
    """Records what it sees."""

    seen: list[Any] = field(default_factory=list)
    needs_activity: ClassVar[bool] = True

    def after_step(self, moment: InterventionContext) -> None:
        with moment.context.probe() as probe:
            slope = sum(float(grad.abs().sum()) for grad in probe.mean_grads().values())
        (activity,) = moment.activity.values()
        self.seen.append((moment.step, moment.inputs, moment.targets, activity.clone(), slope))


def watch(model: nn.Module, **options: Any) -> tuple[Watches, Any, torch.optim.Optimizer]:
    component, optimizer = Watches(), torch.optim.SGD(model.parameters(), lr=0.1)
    return component, forgetkit.attach(model, optimizer, [component], **options), optimizer


def test_a_mapping_shows_what_its_pair_shows():
    torch.manual_seed(0)
    model = Keyed()
    batch = {"x": INPUTS, "labels": TARGETS}
    component, attached, optimizer = watch(model)
    attached.begin(batch)
    with attached.step(batch):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
    torch.manual_seed(0)
    plain = Keyed().body
    other, attached, optimizer = watch(plain)
    attached.begin((INPUTS, TARGETS))
    with attached.step([INPUTS, TARGETS]):
        optimizer.zero_grad()
        cross_entropy(plain(INPUTS), TARGETS).backward()
    ((_, inputs, targets, activity, slope),) = component.seen
    ((_, first, second, same, other_slope),) = other.seen
    assert inputs is batch
    assert targets is None
    assert (first is INPUTS, second is TARGETS) == (True, True)
    torch.testing.assert_close(activity, same)
    assert slope == pytest.approx(other_slope)


def test_an_objective_for_a_loop():
    model = net()
    batch = (INPUTS, TARGETS, "meta")
    component, attached, optimizer = watch(model, objective=lambda m, b: cross_entropy(m(b[0]), b[1]))
    attached.begin(batch)
    with attached.step(batch):
        cross_entropy(model(INPUTS), TARGETS).backward()
        optimizer.step()
    assert component.seen[0][4] > 0


def test_enter_and_exit_are_a_step():
    model = net()
    component, attached, _ = watch(model)
    attached.begin(INPUTS, TARGETS)
    for number in range(3):
        step = attached.enter((INPUTS, TARGETS)) if number % 2 else attached.enter(INPUTS, TARGETS)
        cross_entropy(model(INPUTS), TARGETS) + step.loss()
        step.before()
        attached.exit()
    assert [one[0] for one in component.seen] == [0, 1, 2]
    assert attached.state_dict()["position"] == [1, 1, 3]
    assert not hooks_on(model)


def test_a_failure_between_leaves_no_hook():
    model = net()
    component, attached, _ = watch(model)
    with refused(OptionError, match=r"attached.begin\(inputs, targets\)"):
        attached.enter((INPUTS, TARGETS))
    attached.begin(INPUTS, TARGETS)
    with refused(OptionError, match=r"attached.exit\(\) ends a step that attached.enter\(batch\) began"):
        attached.exit()
    attached.enter((INPUTS, TARGETS))
    assert hooks_on(model)
    for call in (lambda: attached.enter((INPUTS, TARGETS)), attached.after_epoch, attached.state_dict):
        with refused(OptionError, match=r"inside a step: leave the step first \(attached.exit\(error\)"):
            call()
    attached.exit(ValueError("of the loop"))
    assert not hooks_on(model)
    assert not component.seen
    assert attached.state_dict()["position"] == [1, 1, 0]
    attached.enter((INPUTS, TARGETS))
    model(INPUTS)
    attached.exit()
    assert len(component.seen) == 1


def test_an_exit_that_fails_ends_the_step():
    model = net()
    _, attached, _ = watch(model)
    attached.begin(INPUTS, TARGETS)
    attached.enter((INPUTS, TARGETS))
    with refused(OptionError, match="no layer ran in this step"):
        attached.exit()  # without a forward pass
    assert not hooks_on(model)
    with refused(OptionError, match="there is none"):
        attached.exit()
