"""Scoring, forgetting and interventions in a user's own loop, whatever the caller has set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from helpers import hostile_settings
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.errors import ForgetkitError
from forgetkit.seeding import seeded_rng

STATES = {
    name: hostile_settings.HOSTILE[name]
    for name in ("float64", "bfloat16", "autocast", "no-grad", "inference", "device", "default-device")
}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    rng = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8, dtype=dtype), nn.Tanh(), nn.BatchNorm1d(8, dtype=dtype), nn.Linear(8, 3, dtype=dtype)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return model


def batches(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(1)
    inputs = torch.randn(24, 6, generator=rng, dtype=torch.float64).to(dtype)
    return [(inputs[at : at + 8], torch.arange(8) % 3) for at in (0, 8, 16)]


def scored(model: nn.Module, data: Any) -> Mapping[str, Tensor]:
    return {
        f"{spec} {name}": score
        for spec in ("snip", "fisher:variant=exact", "random", "magnitude")
        for name, score in forgetkit.score(model, data, importance=spec).items()
    }


def forgotten(model: nn.Module, data: Any, **how: Any) -> Mapping[str, Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    forgetkit.unlearn(model, data, optimizer=optimizer, policy=forgetkit.ResetPolicy(bn_stats="recalibrate"), **how)
    return model.state_dict()


def masked(model: nn.Module, data: Any) -> Mapping[str, Tensor]:
    scores = {name: parameter.detach().abs() for name, parameter in model.named_parameters()}
    return dict(forgetkit.select(scores, fraction=0.3))


CALLS: Mapping[str, Callable[[nn.Module, Any], Mapping[str, Tensor]]] = {
    "score": scored,
    "unlearn": lambda model, data: forgotten(model, data, reinit="masked:0.5"),
    "uniform": lambda model, data: forgotten(model, data, reinit="masked:0.5,fresh=uniform"),
    "build": lambda model, data: forgotten(model, data, reinit="masked:0.5", build=lambda: nn.Sequential(*network())),
    "shrink-perturb": lambda model, data: forgotten(model, data, reinit="shrink-perturb"),
    "select": masked,
}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_the_same_bits_as_outside(call: str, name: str, dtype: torch.dtype) -> None:
    model, data = network(dtype), batches(dtype)
    expected = CALLS[call](copy.deepcopy(model), data)
    with STATES[name]():
        before = hostile_settings.seen()
        found = CALLS[call](model, data)
        assert hostile_settings.seen() == before
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_in_the_network_s_dtype_and_right(dtype: torch.dtype, default: torch.dtype) -> None:
    with seeded_rng(0):
        model = nn.Linear(6, 3, dtype=dtype)
    ((inputs, labels), *_) = batches(dtype)
    errors = (inputs @ model.weight.T + model.bias).detach().softmax(1) - nn.functional.one_hot(labels, 3)
    expected = (model.weight.detach() * (errors.T @ inputs) / len(labels)).abs()
    with hostile_settings.set_and_reset(torch.set_default_dtype, default, torch.float32):
        found = forgetkit.score(model, [(inputs, labels)], importance="snip")["weight"]
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-5 if dtype == torch.float32 else 1e-13, atol=0)


class Recurrent(nn.Module):
    """Makes a state of its own at each call, without a dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x, torch.zeros(len(x), 5)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_forward_pass_creating_tensors_gets_the_scoring_dtype(default: torch.dtype) -> None:
    with hostile_settings.set_and_reset(torch.set_default_dtype, default, torch.float32):
        model = Recurrent()
        assert forgetkit.score(model, batches(default), importance="snip")["cell.weight_ih"].isfinite().all()


def test_network_built_in_inference_mode_is_refused_by_name() -> None:
    with torch.inference_mode():
        model = nn.Linear(6, 3)
    calls = (
        lambda: forgetkit.score(model, batches(), importance="snip"),
        lambda: forgetkit.unlearn(model, batches()),
        lambda: forgetkit.analyze(model, "calibration", test=batches()[0]),
    )
    for call in calls:
        with pytest.raises(ForgetkitError, match=r"'weight' of Linear was made inside torch.inference_mode\(\)"):
            call()


def test_batches_that_were_made_in_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        data = batches()
    assert forgetkit.score(network(), data, importance="snip").keys() == dict(network().named_parameters()).keys()


def test_a_weight_that_was_reset_inside_autocast_is_cast_anew() -> None:
    model, data = network().eval(), batches()
    model[3].requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        old = model(data[0][0])
        forgetkit.unlearn(model, data, reinit="cold")
        new = model(data[0][0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(new, model(data[0][0]))
    assert not torch.equal(new, old)


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("spec", ["l2-init", "continual-backprop:maturity=1", "redo:every=1", "hare-tortoise"])
def test_interventions(name: str, spec: str) -> None:
    def looped(state: Callable[[], Any]) -> Mapping[str, Tensor]:
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view(parameter.shape).sin())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        data = batches()
        initial = {key: value.clone() for key, value in model.state_dict().items()}
        with state():
            attached = forgetkit.attach(model, optimizer, [spec], initial=initial)
            attached.begin(*data[0])
        for inputs, targets in data:
            with attached.step(inputs, targets) as step:
                loss = cross_entropy(model(inputs), targets)
                with state():
                    term = step.loss()
                optimizer.zero_grad()
                (loss + term).backward()
                with state():
                    step.before()
                optimizer.step()
        with state():
            attached.after_epoch()
        return {
            **model.state_dict(),
            **{
                f"{at} {k}": v
                for at, s in enumerate(attached.state_dict()["components"])
                for k, v in s["state"].items()
            },
        }

    expected, found = looped(torch.enable_grad), looped(STATES[name])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
