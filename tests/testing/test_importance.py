"""Each broken criterion breaks one promise and no other; the built-ins keep them all, closed forms included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from helpers.broken_importance import BROKEN, Good
from helpers.conformance import broken_in, cases, own
from torch import Tensor, nn
from torch.nn.functional import one_hot

from forgetkit import testing
from forgetkit.contracts import Intervention, InterventionContext, Probe
from forgetkit.testing import BrokenPromise, examine


def slopes(model: nn.Module, inputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
    """Of each sample's cross-entropy: (softmax - one-hot) times the inputs, and times one."""
    errors = (inputs @ model.weight.T + model.bias).softmax(1) - one_hot(targets, 3)
    return {"weight": errors[:, :, None] * inputs[:, None, :], "bias": errors}


def snip(model: nn.Module, inputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
    values = dict(model.named_parameters())
    return {name: (values[name] * slope.mean(0)).abs() for name, slope in slopes(model, inputs, targets).items()}


def snip_by_batch(model: nn.Module, inputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
    values, parts = dict(model.named_parameters()), (slice(0, 5), slice(5, 8))
    each = [slopes(model, inputs[part], targets[part]) for part in parts]
    return {
        name: values[name].abs() * (5 * each[0][name].mean(0).abs() + 3 * each[1][name].mean(0).abs()) / 8
        for name in values
    }


def snip_by_sample(model: nn.Module, inputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
    values = dict(model.named_parameters())
    return {name: values[name].abs() * s.abs().mean(0) for name, s in slopes(model, inputs, targets).items()}


def fisher(model: nn.Module, inputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
    return {name: slope.square().mean(0) for name, slope in slopes(model, inputs, targets).items()}


def fisher_of_batches(model: nn.Module, inputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
    each = [slopes(model, inputs[part], targets[part]) for part in (slice(0, 5), slice(5, 8))]
    names = ("weight", "bias")
    return {n: (5 * each[0][n].mean(0).square() + 3 * each[1][n].mean(0).square()) / 8 for n in names}


def fisher_exact(model: nn.Module, inputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
    chances = model(inputs).softmax(1)
    total = {"weight": 0.0, "bias": 0.0}
    for label in range(3):
        for name, slope in slopes(model, inputs, torch.full_like(targets, label)).items():
            weight = chances[:, label].view(-1, *[1] * (slope.ndim - 1))
            total[name] = total[name] + (weight * slope.square()).mean(0)
    return total


def magnitude(model: nn.Module, inputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
    return {name: parameter.abs() for name, parameter in model.named_parameters()}


ORACLES = {
    "snip": snip,
    "snip:reduce=mean-abs": snip_by_batch,
    "snip:reduce=per-sample": snip_by_sample,
    "fisher": fisher,
    "fisher:variant=batch": fisher_of_batches,
    "fisher:variant=exact": fisher_exact,
    "fisher:variant=sampled": None,  # a draw
    "magnitude": magnitude,
    "random": None,  # a draw
}


@pytest.mark.slow
@pytest.mark.parametrize(("promise", "component"), cases(BROKEN))
def test_each_breaks_one_promise(promise: str, component: type) -> None:
    oracle = snip if promise == "oracle" else None
    assert broken_in(examine("importance", component, oracle=oracle)) == [promise]


def test_there_is_a_broken_one_for_each_promise() -> None:
    assert set(BROKEN) == set(own("importance"))


def test_a_sound_one_breaks_none() -> None:
    verdicts = examine("importance", Good, oracle=snip)
    assert [verdict.promise.name for verdict in verdicts if verdict.status == "kept"] == own("importance")


@pytest.mark.slow
@pytest.mark.parametrize("spec", ORACLES)
def test_the_built_ins_keep_them_all(spec: str) -> None:
    testing.check_importance(spec, oracle=ORACLES[spec])


@dataclass(frozen=True)
class Path(Intervention):
    """How far each entry has come while it was watched."""

    needs_data = False

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        for name, parameter in moment.model.named_parameters():
            if parameter.requires_grad:
                last = moment.state.setdefault(f"last {name}", parameter.detach().clone())
                length = moment.state.setdefault(f"length {name}", torch.zeros_like(parameter))
                length.add_((parameter - last).abs())
                last.copy_(parameter)

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        return {name: probe.memory[f"length {name}"].float() for name in probe.targets}


class Reckless(Path):
    """Never forgets to count."""

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        object.__setattr__(self, "asked", 1 + vars(self).get("asked", 0))
        return {name: score * vars(self)["asked"] for name, score in super().score(probe).items()}


@pytest.mark.slow
def test_one_that_watches_the_training_has_watched_some() -> None:
    assert broken_in(examine("importance", Path)) == []
    assert broken_in(examine("importance", Reckless)) == ["deterministic"]
    assert broken_in(examine("interventions", Path)) == []


def test_an_oracle_that_is_wrong_shows() -> None:
    with pytest.raises(BrokenPromise, match="oracle"):
        testing.check_importance("snip", oracle=fisher)
