"""A builder that gives the same weights each time is noticed, tensor by tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import forgetkit
from forgetkit.unlearning import RepeatedValues


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


torch_state = torch.Generator().manual_seed(7)
LOADED = {name: torch.rand(t.shape, generator=torch_state) for name, t in net().named_parameters()}


def loads() -> nn.Sequential:
    model = net()
    model.load_state_dict(LOADED, strict=False)
    return model


def loads_with_a_fresh_head() -> nn.Sequential:
    model = loads()
    model[3].reset_parameters()
    return model


def seeds_itself() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return net()


def frozen_with_a_fresh_head() -> nn.Sequential:
    model = loads_with_a_fresh_head()
    model[:3].requires_grad_(requires_grad=False)
    return model


def one_pattern() -> nn.Sequential:
    model = net()
    nn.init.eye_(model[3].weight)
    return model


BUILDERS: dict[Callable[[], nn.Sequential], tuple[int, int]] = {
    net: (0, 4),
    loads: (6, 6),
    loads_with_a_fresh_head: (4, 6),
    seeds_itself: (4, 4),
    one_pattern: (1, 4),
}


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_tensors_that_two_builds_have_in_common_are_counted(build, caplog):
    same, varied = BUILDERS[build]
    state = torch.get_rng_state()
    found = RepeatedValues.of(build, "")
    assert (len(found.same), len(found.varied)) == (same, varied)
    assert torch.equal(state, torch.get_rng_state())
    report = forgetkit.unlearn(build(), reinit="cold", build=build)
    if not same:
        assert report.repeated is None
        assert not caplog.records
        return
    assert report.repeated.startswith(f"{same} of {varied} random-looking tensors are the same in two builds")
    assert "load_state_dict" in report.repeated
    assert report.repeated in caplog.text


def test_only_what_is_drawn_and_trainable_counts(caplog):
    batches = [(torch.randn(8, 4), torch.arange(8) % 3)]
    for options in (
        {"reinit": "cold", "build": frozen_with_a_fresh_head},
        {"reinit": "rifle", "build": loads_with_a_fresh_head},
        {"reinit": "masked:fresh=uniform,norm=skip", "build": loads},
        {"reinit": "masked:fresh=zero,norm=skip", "build": loads},
        {"reinit": "shrink-perturb:draw=gaussian,stats=reset", "build": loads},
    ):
        model = options["build"]()
        assert forgetkit.unlearn(model, batches, **options).repeated is None, options
    assert not [record for record in caplog.records if "two builds" in record.getMessage()]


def test_the_model_may_freeze_what_the_builder_does_not():
    model = frozen_with_a_fresh_head()
    assert forgetkit.unlearn(model, reinit="cold", build=loads_with_a_fresh_head).repeated is None


def test_the_remedy_gives_fresh_values_and_can_rewind():
    """The builder draws, and the weights are loaded afterwards."""
    model = loads()
    initial = copy.deepcopy(model.state_dict())
    report = forgetkit.unlearn(model, reinit="cold", build=net, initial=initial)
    assert report.repeated is None
    assert not torch.equal(model[0].weight, LOADED["0.weight"])
    forgetkit.unlearn(model, reinit="cold:draw=same", build=net, initial=initial)
    assert torch.equal(model[0].weight, LOADED["0.weight"])


def test_an_intervention_that_resets_is_warned_of_once(caplog):
    from dataclasses import dataclass

    from forgetkit.contracts import Change, Intervention, InterventionContext

    @dataclass(frozen=True)
    class Restart(Intervention):
        """Draws the head anew after each step."""

        def after_step(self, moment: InterventionContext) -> None:
            moment.apply([Change("3.weight", None, moment.context.fresh("3.weight"))])

    model = loads()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(model, optimizer, [Restart()], build=loads)
    inputs, targets = torch.randn(6, 4), torch.arange(6) % 3

    def steps(count: int) -> Tensor:
        for _ in range(count):
            with attached.step(inputs, targets) as step:
                loss = nn.functional.cross_entropy(model(inputs), targets) + step.loss()
                optimizer.zero_grad()
                loss.backward()
                step.before()
                optimizer.step()
        return model[3].weight

    attached.begin(inputs, targets)
    assert torch.equal(steps(3), LOADED["3.weight"])
    said = [record.getMessage() for record in caplog.records if "two builds" in record.getMessage()]
    assert len(said) == 1
    assert "Restart: 1 of 1 random-looking tensors" in said[0]
