"""Criteria made of gradients, against loops and closed forms in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from forgetkit_saliency.gxd import Gxd
from saliency_nets import batches, convnet, flat, gradient, linear, mlp, parameters, residual, together, value_at
from torch import Tensor, nn

import forgetkit
from forgetkit.errors import OptionError

IMAGES = (2, 5, 5)
close = torch.testing.assert_close


def test_snip_sample_is_the_built_in_one_to_the_bit() -> None:
    model, data = convnet().float(), [(x.float(), y) for x, y in batches(5, 4, shape=IMAGES)]
    ours, theirs = (forgetkit.score(model, data, importance=name) for name in ("snip-sample", "snip:reduce=per-sample"))
    close(ours, theirs, rtol=0, atol=0)


def test_snip_sample_is_a_mean_over_samples() -> None:
    model, data = mlp(), batches(4, 3, 1)
    inputs, targets = together(data)
    weights = parameters(model)
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    for n in range(8):
        for name, slope in gradient(model, inputs[n : n + 1], targets[n : n + 1]).items():
            total[name] += (weights[name] * slope).abs() / 8
    close(forgetkit.score(model, data, importance="snip-sample"), total)


def test_taylor_per_weight_is_snip_to_the_bit() -> None:
    model, data = convnet(), batches(5, 4, shape=IMAGES)
    ours, theirs = (forgetkit.score(model, data, importance=name) for name in ("taylor", "snip"))
    close(ours, theirs, rtol=0, atol=0)


PER_FILTER: dict[str, Callable[[list[float]], float]] = {
    "filter": lambda terms: sum(abs(t) for t in terms) / len(terms),
    "filter-squared": lambda terms: sum(terms) ** 2 / len(terms),
}


@pytest.mark.parametrize("per", PER_FILTER)
def test_taylor_per_filter_in_loops(per: str) -> None:
    model, data = convnet(), batches(5, 4, shape=IMAGES)
    scores = forgetkit.score(model, data, importance=f"taylor:per={per}")
    slopes, weights = gradient(model, *together(data)), parameters(model)
    for layer, besides in (("0", ["0.bias", "1.weight", "1.bias"]), ("3", ["3.bias"]), ("6", ["6.bias"])):
        weight, slope, score = weights[f"{layer}.weight"], slopes[f"{layer}.weight"], scores[f"{layer}.weight"]
        for unit in range(len(weight)):
            terms = (weight[unit] * slope[unit]).flatten().tolist()
            expected = torch.tensor(PER_FILTER[per](terms), dtype=torch.float64)
            close(score[unit], expected.expand_as(score[unit]))
            for name in besides:
                close(scores[name][unit], expected)
    for name in ("8.weight", "8.bias"):  # the outputs are no units
        by_itself = weights[name] * slopes[name]
        close(scores[name], by_itself.abs() if per == "filter" else by_itself.square())


def test_taylor_judges_all_that_writes_into_a_stream_together() -> None:
    model, data = residual(), batches(6, shape=IMAGES)
    scores = forgetkit.score(model, data, importance="taylor:per=filter")
    slopes, weights = gradient(model, *data[0]), parameters(model)
    for writers in (("stem", "back"), ("wide", "short"), ("inside",)):
        names = [f"{writer}.weight" for writer in writers]
        terms = torch.cat([(weights[n] * slopes[n]).abs().flatten(1) for n in names], 1)
        for name in names:
            close(scores[name], terms.mean(1).view(-1, 1, 1, 1).expand_as(weights[name]))


@pytest.mark.parametrize("per", PER_FILTER)
def test_taylor_per_filter_leaves_unscored_parameters_out(per: str) -> None:
    model, data = convnet(), batches(5, shape=IMAGES)
    scoring = forgetkit.Scoring(params="conv-linear")
    some = forgetkit.score(model, data, importance=f"taylor:per={per}", scoring=scoring)
    every = forgetkit.score(model, data, importance=f"taylor:per={per}")
    assert list(some) == ["0.weight", "3.weight", "6.weight", "8.weight"]
    close(some, {name: every[name] for name in some}, rtol=0, atol=0)


def test_taylor_takes_a_filter_in_any_memory_format() -> None:
    model, data = convnet(), batches(5, shape=IMAGES)
    usual = forgetkit.score(model, data, importance="taylor:per=filter")
    other = forgetkit.score(model.to(memory_format=torch.channels_last), data, importance="taylor:per=filter")
    close(usual, other)


def test_gxd_with_zero_is_snip() -> None:
    model, data = convnet(), batches(5, 4, shape=IMAGES)
    ours, theirs = (forgetkit.score(model, data, importance=name) for name in ("gxd:reference=zero", "snip"))
    close(ours, theirs, rtol=0, atol=0)


def test_gxd_with_the_values_of_the_start() -> None:
    model, data = mlp(), batches(6)
    start = parameters(mlp(1))
    scores = forgetkit.score(model, data, importance="gxd:reference=init", initial=start)
    slopes, now = gradient(model, *data[0]), parameters(model)
    close(scores, {name: (slopes[name] * (start[name] - now[name])).abs() for name in now})


@pytest.mark.parametrize("origin", ["original", "layer-default", "uniform"])
def test_gxd_foresees_the_very_reset(origin: str) -> None:
    model, data, few = mlp(), batches(6), 1e-6
    spec = "gxd" if origin == "original" else f"gxd:origin={origin}"
    scores = forgetkit.score(model, data, importance=spec, seed=7)
    after = copy.deepcopy(model)
    forgetkit.unlearn(after, data, importance="magnitude", reinit=f"masked:fraction=1,fresh={origin}", seed=7)
    old, new = flat(parameters(model)), flat(parameters(after))
    for entry in range(len(old)):  # towards its new value by a millionth of the way, one entry at a time
        ahead, behind = old.clone(), old.clone()
        ahead[entry].lerp_(new[entry], few)
        behind[entry].lerp_(new[entry], -few)
        rise = (value_at(model, ahead, *data[0]) - value_at(model, behind, *data[0])) / (2 * few)
        close(flat(scores)[entry], rise.abs().detach(), rtol=1e-5, atol=1e-8)


def test_gxd_of_a_unit_is_gradient_times_distance() -> None:
    """As the paper has it, with h the unit's activity: with ReLUs and a reference of zero both are one number."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double(), batches(5, 4)
    inputs, targets = together(data)
    scores = forgetkit.score(model, data, importance="gxd:per=unit,reference=zero")
    first, second = model[0], model[2]
    h = torch.relu(first(inputs)).detach().requires_grad_()
    nn.functional.cross_entropy(second(h), targets).backward()
    assert h.grad is not None
    expected = (h.grad * h).sum(0).abs().detach() / (first.in_features + 1)
    close(scores["0.weight"], expected[:, None].expand_as(scores["0.weight"]))
    close(scores["0.bias"], expected)
    alone = forgetkit.score(model, data, importance="gxd:reference=zero")
    close(scores["2.weight"], alone["2.weight"], rtol=0, atol=0)  # outputs are no units


def test_gxd_of_a_unit_foresees_its_whole_reset() -> None:
    """All entries of a channel at once, a millionth of the way to their drawn values, normalisation included."""
    model, data, few = convnet(), batches(5, 4, shape=IMAGES), 1e-6
    scores = forgetkit.score(model, data, importance="gxd:per=unit", seed=7)
    after = copy.deepcopy(model)
    forgetkit.unlearn(after, data, importance="magnitude", reinit="masked:fraction=1", seed=7)
    old, new = parameters(model), parameters(after)
    names = ("0.weight", "0.bias", "1.weight", "1.bias")
    for unit in range(len(old["0.bias"])):
        places = {}
        for sign in (1, -1):
            place = {name: value.clone() for name, value in old.items()}
            for name in names:
                place[name][unit].lerp_(new[name][unit], sign * few)
            places[sign] = value_at(model, flat(place), *together(data))
        rise, n = (places[1] - places[-1]) / (2 * few), sum(old[name][unit].numel() for name in names)
        for name in names:
            close(scores[name][unit], (rise.abs().detach() / n).expand_as(scores[name][unit]), rtol=1e-5, atol=1e-8)


def test_gxd_knows_which_options_fit() -> None:
    with pytest.raises(OptionError, match="reference=zero"):
        Gxd(reference="zero", origin="uniform")
    with pytest.raises(OptionError, match="initial"):
        forgetkit.score(mlp(), batches(4), importance="gxd:reference=init")


class Gated(nn.Module):
    """With a parameter that nobody knows how to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(5))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.gate)


def test_gxd_says_what_to_do_where_nothing_can_be_drawn() -> None:
    data = [(x.float(), y) for x, y in batches(4)]
    with pytest.raises(OptionError, match=r"gate.*reference=zero or init"):
        forgetkit.score(Gated(), data, importance="gxd")
    assert set(forgetkit.score(Gated(), data, importance="gxd:reference=zero")) == {"gate", "head.weight", "head.bias"}


@pytest.mark.parametrize("variant", ["empirical", "sampled", "exact", "batch"])
def test_fisher_obd_is_half_of_fisher_times_the_square(variant: str) -> None:
    model, data = mlp(), batches(5, 3)
    scores = forgetkit.score(model, data, importance=f"fisher-obd:variant={variant}", seed=3)
    fisher = forgetkit.score(model, data, importance=f"fisher:variant={variant}", seed=3)
    close(scores, {name: fisher[name] * value.square() / 2 for name, value in parameters(model).items()})


def test_fisher_obd_in_closed_form() -> None:
    model, data = linear(), batches(5, 3)
    inputs, targets = together(data)
    weight, bias = model.weight.detach(), model.bias.detach()
    error = (inputs @ weight.T + bias).softmax(1) - torch.eye(3)[targets]
    expected = {
        "weight": torch.einsum("ni,nj->ij", error.square(), inputs.square()) / 8 * weight.square() / 2,
        "bias": error.square().mean(0) * bias.square() / 2,
    }
    close(forgetkit.score(model, data, importance="fisher-obd"), expected)


def test_fisher_obd_says_what_it_needs() -> None:
    data = [(torch.randn(2, 4, 5), torch.randint(3, (2, 4)))]

    def by_position(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    with pytest.raises(OptionError, match=r"fisher-obd: sampled and exact need outputs of shape \(batch, classes\)"):
        forgetkit.score(nn.Linear(5, 3), data, importance="fisher-obd:variant=exact", loss=by_position)


def test_mas_in_closed_form() -> None:
    model, data = linear(), batches(5, 3)
    inputs, _ = together(data)
    outputs = (inputs @ model.weight.T + model.bias).detach()
    slopes = 2 * outputs[:, :, None] * inputs[:, None, :]
    expected = {"weight": slopes.abs().mean(0), "bias": (2 * outputs).abs().mean(0)}
    close(forgetkit.score(model, data, importance="mas"), expected)
    parts = (slice(0, 5), slice(5, 8))
    by_batch = sum(len(slopes[part]) / 8 * slopes[part].mean(0).abs() for part in parts)
    assert not torch.allclose(by_batch, expected["weight"])
    close(forgetkit.score(model, data, importance="mas:variant=batch")["weight"], by_batch)


def test_mas_looks_at_no_labels() -> None:
    model, data = mlp(), batches(5)
    others = [(inputs, (targets + 1) % 3) for inputs, targets in data]
    close(forgetkit.score(model, data, importance="mas"), forgetkit.score(model, others, importance="mas"))
