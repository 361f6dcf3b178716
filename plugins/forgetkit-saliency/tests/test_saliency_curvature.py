"""Criteria made of second derivatives, against the full Hessian and finite differences."""

from __future__ import annotations

import pytest
import torch
from saliency_nets import batches, flat, gradient, hessian, mlp, parameters, together, value_at
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import forgetkit

close = torch.testing.assert_close


def cooled(temperature: float):
    return lambda outputs, targets: cross_entropy(outputs / temperature, targets)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 200.0])
def test_grasp_with_the_full_hessian(temperature: float) -> None:
    model, data = mlp(), batches(5, 3)
    inputs, targets = together(data)
    slope = flat(gradient(model, inputs, targets, cooled(temperature)))
    product = hessian(model, inputs, targets, cooled(temperature)) @ slope
    scores = flat(forgetkit.score(model, data, importance=f"grasp:temperature={temperature}"))
    close(scores, flat(parameters(model)) * product, rtol=1e-6, atol=float(product.abs().max()) * 1e-9)


def test_grasp_keeps_what_the_gradient_owes_its_length_to() -> None:
    model, (data,) = mlp(), batches(8)
    scores, place, few = flat(forgetkit.score(model, [data], importance="grasp:temperature=none")), None, 1e-5
    place = flat(parameters(model))

    def length(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        (slope,) = torch.autograd.grad(value_at(model, at, *data), at)
        return slope.square().sum() / 2

    for entry in range(len(place)):  # a little towards zero, and away from it
        step = torch.zeros_like(place)
        step[entry] = few * place[entry]
        close(scores[entry], (length(place + step) - length(place - step)) / (2 * few), rtol=1e-4, atol=1e-9)


class Scales(nn.Module):
    """Each output is one input times one parameter: with the squared error the Hessian is diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def squares() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, generator=rng, dtype=torch.float64), torch.randn(6, 3, generator=rng, dtype=torch.float64)


def test_off_minimum_is_the_rise_of_a_quadratic_loss() -> None:
    model, data = Scales(), squares()
    found = forgetkit.score(model, [data], importance="hessian:form=off-minimum,probes=1", loss=mse_loss)["scale"]
    place = flat(parameters(model))
    for entry in range(3):
        without = place.clone()
        without[entry] = 0
        rise = value_at(model, without, *data, mse_loss) - value_at(model, place, *data, mse_loss)
        close(found[entry], rise.detach())


def test_at_a_minimum_the_first_order_is_nothing() -> None:
    inputs, targets = squares()
    model = Scales()
    with torch.no_grad():
        model.scale.copy_((inputs * targets).sum(0) / inputs.square().sum(0))
    obd, both = (
        forgetkit.score(model, [(inputs, targets)], importance=f"hessian:probes=1,form={form}", loss=mse_loss)["scale"]
        for form in ("obd", "off-minimum")
    )
    close(obd, both)


@pytest.mark.slow
def test_the_diagonal_is_met_within_its_error() -> None:
    model, data, probes = mlp(), batches(5, 3), 200
    matrix = hessian(model, *together(data))
    place, slope = flat(parameters(model)), flat(gradient(model, *together(data)))
    scores = flat(forgetkit.score(model, data, importance=f"hessian:form=off-minimum,probes={probes}"))
    diagonal = (scores + slope * place) * 2 / place.square()
    error = ((matrix.square().sum(1) - matrix.diag().square()) / probes).sqrt()
    deviations = (diagonal - matrix.diag()) / error
    assert float(deviations.abs().max()) < 4.5
    assert 0.5 < float(deviations.square().mean()) < 2  # and no better than it can be: entries share their vectors


def test_a_negative_curvature_counts_as_none() -> None:
    model, data = mlp(), batches(5, 3)
    obd, both = (
        flat(forgetkit.score(model, data, importance=f"hessian:form={form}")) for form in ("obd", "off-minimum")
    )
    half = both + flat(gradient(model, *together(data))) * flat(parameters(model))
    assert bool((half < 0).any())
    close(obd, half.clamp_min(0))


def test_cutting_into_batches_changes_nothing() -> None:
    model, data = mlp(), batches(5, 3, 4)
    for spec in ("hessian", "hessian:form=off-minimum", "grasp"):
        close(
            forgetkit.score(model, data, importance=spec),
            forgetkit.score(model, [together(data)], importance=spec),
        )
