"""The ways of forgetting, on networks whose right answer is written down here."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal

import pytest
import torch
from helpers.unlearning_networks import (
    changed,
    convnet,
    images,
    mlp,
    refused,
    same_bits,
    scrambled,
    values,
    vectors,
)
from torch import nn

import forgetkit
from forgetkit.contracts import Inputs
from forgetkit.errors import NoMatchError, OptionError
from forgetkit.registry import registry
from forgetkit.seeding import Seeds
from forgetkit.unlearning.layerwise import LayerwiseFresh

PIXELS = [(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2]))]


@pytest.fixture(scope="module", params=["resnet18", pytest.param("resnet34", marks=pytest.mark.long), "resnet50"])
def build_resnet(request: pytest.FixtureRequest) -> Callable[[], nn.Module]:
    inputs = Inputs((3, 8, 8), 10, (0.5,) * 3, (0.25,) * 3)
    component = registry.load().make("models", request.param)[1]
    return lambda: component.build(inputs, nn.Identity())


@pytest.fixture(scope="module")
def resnet(build_resnet: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build_resnet()


@pytest.mark.slow
def test_later_layers_of_a_resnet(resnet, build_resnet):
    """From the third of four blocks on: convolutions, projections and the head; not batch normalisation."""
    before = values(resnet)
    report = forgetkit.unlearn(resnet, PIXELS, build=build_resnet, reinit="llf", seed=1)
    assert next(iter(report.layers)) == "layer3.0.conv1.weight"
    norms = {name for name, module in resnet.named_modules() if isinstance(module, nn.BatchNorm2d)}
    later = {n for n in before if n.startswith(("layer3.", "layer4.", "fc."))}
    expected = {n for n in later if n.rpartition(".")[0] not in norms}
    assert set(report.layers) == set(changed(resnet, before)) == expected
    assert expected >= {"fc.weight", "fc.bias", "layer3.0.downsample.0.weight", "layer4.0.downsample.0.weight"}
    assert report.buffers == ()
    assert report.reset == sum(before[name].numel() for name in expected)


@pytest.mark.slow
def test_later_layers_of_a_resnet_with_their_norms(resnet, build_resnet):
    scrambled(resnet)
    before = values(resnet)
    report = forgetkit.unlearn(resnet, PIXELS, build=build_resnet, reinit="llf:norm=reset", seed=1)
    later = {n for n in before if n.startswith(("layer3.", "layer4.", "fc."))}
    assert set(report.layers) | set(report.buffers) == later
    assert later - set(changed(resnet, before)) == {n for n in later if n.endswith("num_batches_tracked")}
    norm = resnet.layer4[1].bn2
    for tensor, value in ((norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0), (norm.running_var, 1)):
        assert (tensor == value).all()


def vgg_like() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 2
    for width in (3, 3, 4, 4):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return scrambled(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.Linear(6, 4)))


@pytest.mark.parametrize("norm", ["keep", "reset"])
@pytest.mark.parametrize("depth", [0.0, 0.1, 1 / 6, 0.43, 0.5, 0.83])
def test_later_layers_of_a_plain_stack(depth, norm):
    model = vgg_like()
    before = values(model)
    report = forgetkit.unlearn(model, images(4), reinit=f"llf:start={depth},norm={norm}")
    weighted = ["0", "3", "6", "9", "14", "15"]
    first = weighted[math.ceil(Decimal(str(depth)) * 6)]
    modules = {n for n in ("0", "1", "3", "4", "6", "7", "9", "10", "14", "15") if int(n) >= int(first)}
    if norm == "keep":
        modules -= {"1", "4", "7", "10"}
    expected = {n for n in before if n.partition(".")[0] in modules}
    assert set(report.layers) | set(report.buffers) == expected
    assert set(changed(model, before)) == {n for n in expected if not n.endswith("tracked")}


def test_the_depth_is_exact_for_the_decimal_as_it_is_written():
    """0.28 * 25 is 7.000000000000001, and the layers that are kept are seven."""
    model = mlp(*[3] * 24)
    report = forgetkit.unlearn(model, vectors(3), reinit="llf:start=0.28")
    assert next(iter(report.layers)) == "14.weight"


def test_a_depth_that_leaves_nothing_is_an_error():
    model = mlp(6, 6)
    with refused(NoMatchError, match=r"start=0\.9 keeps all 3", unchanged=model):
        forgetkit.unlearn(model, vectors(3), reinit="llf:start=0.9")


@pytest.mark.parametrize(
    "spec",
    ["llf:start=1.0", "llf:start=-0.1", "llf:start=0", "llf:start=-1", "llf:start=1.5", "llf:start=x",
     "llf:depth=0.4", "llf:norm=both", "masked:fraction=1.1", "masked:fraction=-0.1",
     "shrink-perturb:shrink=1.1", "shrink-perturb:noise=-1", "rifle:x=1", "rifel"],
)  # fmt: skip
def test_options_out_of_range(spec):
    with refused(OptionError):
        forgetkit.unlearn(mlp(), vectors(3), reinit=spec)


@pytest.mark.slow
def test_rifle_resets_weight_and_bias_of_the_head_alone(resnet, build_resnet):
    before = values(resnet)
    report = forgetkit.unlearn(resnet, PIXELS, build=build_resnet, reinit="rifle", seed=2)
    differ = changed(resnet, before)
    assert set(report.layers) == set(differ) == {"fc.weight", "fc.bias"}
    assert differ["fc.weight"].all()
    assert differ["fc.bias"].all()
    assert report.reset == 10 * resnet.fc.in_features + 10


def test_cold_resets_everything():
    model = convnet().train()
    model(images(6)[0][0])
    before = values(model)
    report = forgetkit.unlearn(model, images(4), reinit="cold", seed=1)
    assert all(where.all() for where in changed(model, before).values())
    assert set(changed(model, before)) == set(before)
    assert report.reset == sum(p.numel() for p in model.parameters())
    assert set(report.buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    norm = model[1]
    assert norm.weight.tolist() == norm.running_var.tolist() == [1, 1, 1]
    assert norm.bias.tolist() == norm.running_mean.tolist() == [0, 0, 0]
    assert int(norm.num_batches_tracked) == 0


def test_cold_is_a_new_draw_each_time():
    model = convnet()
    forgetkit.unlearn(model, reinit="cold", seed=1)
    one = values(model)
    forgetkit.unlearn(model, reinit="cold", seed=2)
    differ = changed(model, one)
    assert all(differ[name].all() for name in ("0.weight", "0.bias", "5.weight", "5.bias"))
    forgetkit.unlearn(model, reinit="cold", seed=1)
    assert changed(model, one) == {}


@pytest.mark.parametrize(("spec", "shrink", "noise"), [
    ("shrink-perturb", 0.4, 0.001),
    ("shrink-perturb:shrink=0.3,noise=0.1", 0.3, 0.1),
    ("shrink-perturb:shrink=0,noise=1", 0, 1),
    ("shrink-perturb:shrink=1,noise=0", 1, 0),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_shrink_and_perturb_is_its_formula(spec, shrink, noise, dtype):
    model = convnet(dtype=dtype)
    before = values(model)
    draws = LayerwiseFresh(model, None, Seeds(7))
    report = forgetkit.unlearn(model, reinit=spec, seed=7)
    assert set(report.layers) == {name for name, _ in model.named_parameters()}
    assert report.buffers == ()
    for name, now in values(model).items():
        if name in report.layers:
            expected = shrink * before[name].double() + noise * draws.draw(name).double()
            accuracy = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(now.double(), expected, rtol=accuracy, atol=accuracy)
        else:
            assert same_bits(now, before[name])
    if shrink == 1 and noise == 0:
        assert changed(model, before) == {}


def test_none_changes_nothing():
    model = convnet()
    optimizer = torch.optim.Adam(model.parameters())
    model(images(4)[0][0]).sum().backward()
    optimizer.step()
    before = values(model)
    state = {p: {key: value.clone() for key, value in entry.items()} for p, entry in optimizer.state.items()}
    report = forgetkit.unlearn(model, images(4), reinit="none", optimizer=optimizer)
    assert changed(model, before) == {}
    assert (report.reset, report.scored, report.threshold, dict(report.layers)) == (0, 0, None, {})
    assert (report.optimizer_cleared, report.buffers) == (0, ())
    for parameter, entry in optimizer.state.items():
        assert all(torch.equal(value, state[parameter][key]) for key, value in entry.items())
