"""Where a fresh value comes from: the network's own start, torch's, a range, what it began with, or zero."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from helpers.unlearning_networks import (
    CLASSES,
    bits,
    changed,
    check_uniform,
    convnet,
    images,
    mlp,
    refused,
    same_bits,
    scrambled,
    unlearn_with,
    values,
    vectors,
)
from scipy.stats import kstest, norm
from torch import Tensor, nn

import forgetkit
from forgetkit import unlearning
from forgetkit.builtin.importance.random import Random
from forgetkit.builtin.reinit.masked import Masked
from forgetkit.contracts import Change, ReinitContext
from forgetkit.errors import OptionError
from forgetkit.seeding import Seeds
from forgetkit.unlearning import ModelHistory, Scoring
from forgetkit.unlearning.fresh_values import NO_HISTORY, FreshValues
from forgetkit.unlearning.layerwise import LayerwiseFresh

UNLIKELY = 1e-6
ORIGINS = ["original", "layer-default", "uniform", "rewind", "zero"]


@pytest.mark.parametrize(
    ("module", "fan_in"),
    [
        (nn.Linear(50, 300), 50),
        (nn.Conv2d(12, 300, 3), 108),
        (nn.Conv2d(12, 240, 3, groups=4), 27),
        (nn.Conv1d(20, 300, 5), 100),
        (nn.ConvTranspose2d(240, 12, 3), 108),
        (nn.Embedding(300, 30), 30),
    ],
    ids=repr,
)
def test_uniform_is_within_one_over_the_root_of_fan_in(module, fan_in):
    """All dimensions but the first, as torch counts them; of one dimension, a fan-in of 1."""
    model = scrambled(nn.Sequential(module))
    origins = FreshValues(model, NO_HISTORY, Seeds(0))
    if not isinstance(module, nn.Embedding):
        assert nn.init._calculate_fan_in_and_fan_out(module.weight)[0] == fan_in
    check_uniform(origins.draw("0.weight", "uniform"), 1 / math.sqrt(fan_in))
    with pytest.raises(AssertionError):  # the test can tell another scale
        check_uniform(origins.draw("0.weight", "uniform"), 1.2 / math.sqrt(fan_in))
    if "0.bias" in dict(model.named_parameters()):
        bias = origins.draw("0.bias", "uniform")
        assert 1 / math.sqrt(fan_in) < float(bias.abs().max()) <= 1


def test_uniform_of_one_dimension_and_of_none():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.many, self.one = nn.Parameter(torch.ones(2000)), nn.Parameter(torch.tensor(1.0))

    draws = [FreshValues(Scale(), NO_HISTORY, Seeds(seed)) for seed in range(200)]
    check_uniform(draws[0].draw("many", "uniform"), 1.0)
    ones = torch.stack([origins.draw("one", "uniform") for origins in draws])
    assert ones.shape == (200,)
    check_uniform(ones, 1.0)


@pytest.mark.parametrize("origin", ["original", "layer-default", "uniform"])
def test_a_draw_is_a_function_of_seed_and_name(origin):
    torch.manual_seed(0)
    model, other = convnet(), scrambled(convnet(), 5)
    expected = {name: FreshValues(model, NO_HISTORY, Seeds(3)).draw(name, origin) for name in ("0.weight", "5.weight")}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    backwards = FreshValues(other, NO_HISTORY, Seeds(3))
    for name in ("5.weight", "0.weight"):
        assert torch.equal(backwards.draw(name, origin), expected[name])
        assert not (FreshValues(model, NO_HISTORY, Seeds(4)).draw(name, origin) == expected[name]).any()
    assert torch.equal(state, torch.get_rng_state())
    twins = FreshValues(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), NO_HISTORY, Seeds(0))
    assert not (twins.draw("0.weight", origin) == twins.draw("1.weight", origin)).any()


def initialise(module: nn.Module) -> None:
    """How a network of somebody's own might start: its linear layers normal, all else as torch has it."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 3.0)
        nn.init.constant_(module.bias, 7.0)
    else:
        module.reset_parameters()


def test_original_and_layer_default_distributions():
    model = mlp(300)
    origins = FreshValues(model, ModelHistory(initialise=initialise), Seeds(0))
    own = origins.draw("0.weight", "original")
    assert kstest(own.flatten().numpy(), norm(0, 3).cdf).pvalue > UNLIKELY
    assert (origins.draw("0.bias", "original") == 7).all()
    check_uniform(origins.draw("0.weight", "layer-default"), 1 / math.sqrt(5))
    check_uniform(origins.draw("0.bias", "layer-default"), 1 / math.sqrt(5))
    plain = FreshValues(model, NO_HISTORY, Seeds(0))
    for name in ("0.weight", "2.bias"):
        assert torch.equal(plain.draw(name, "original"), origins.draw(name, "layer-default"))


def test_layer_default_does_not_build_anew():
    def build() -> nn.Module:
        model = convnet()
        nn.init.constant_(model[5].weight, 9.0)
        return model

    origins = FreshValues(convnet(), ModelHistory(build=build), Seeds(0))
    assert (origins.draw("5.weight", "original") == 9).all()
    assert torch.equal(
        origins.draw("5.weight", "layer-default"), LayerwiseFresh(convnet(), None, Seeds(0)).draw("5.weight")
    )
    assert (origins.draw("1.weight", "layer-default") == 1).all()


def test_rewind_and_zero():
    model = convnet()
    began = values(convnet(seed=4))
    origins = FreshValues(model, ModelHistory(initial=began.__getitem__), Seeds(0))
    for name, value in began.items():
        assert same_bits(origins.draw(name, "rewind"), value)
        zero = origins.draw(name, "zero")
        assert zero.shape == value.shape
        assert not zero.any()


def test_rewinding_needs_what_there_was():
    model = convnet()
    with refused(OptionError, match="pass initial=", unchanged=model):
        forgetkit.unlearn(model, images(4), reinit="masked:fresh=rewind")
    some = {name: value for name, value in values(convnet(seed=1)).items() if name != "5.bias"}
    with refused(OptionError, match=r"initial= holds no '5\.bias'", unchanged=model):
        forgetkit.unlearn(model, images(4), reinit="masked:fresh=rewind,fraction=1", initial=some)
    with refused(OptionError, match=r"no tensor of shape .* for '0\.weight'", unchanged=model):
        forgetkit.unlearn(model, images(4), reinit="masked:fresh=rewind", initial=values(mlp(3)))
    with refused(OptionError, match=r"the model's own '0\.weight'.*copies", unchanged=model):
        forgetkit.unlearn(model, images(4), reinit="masked:fresh=rewind", initial=model.state_dict())


def test_an_unknown_origin_is_refused():
    with pytest.raises(OptionError, match="not 'kaiming'"):
        unlearn_with(lambda c: [Change("5.bias", None, c.fresh("5.bias", "kaiming"))], convnet())
    with pytest.raises(OptionError, match="fresh=kaiming"):
        forgetkit.unlearn(convnet(), images(4), reinit="masked:fresh=kaiming")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("origin", ORIGINS)
def test_a_context_gives_them_in_the_dtype_of_what_they_replace(origin, dtype):
    model, began = convnet(dtype=dtype), values(convnet(seed=1))
    seen = {}

    def propose(context: ReinitContext) -> list[Change]:
        seen.update({name: context.fresh(name, origin) for name in context.targets})
        return [Change("5.bias", None, context.fresh("5.bias", origin))]

    past = ModelHistory(initial=began.__getitem__)
    unlearn_with(propose, model, history=past)
    origins = FreshValues(model, past, Seeds(0))
    for name, value in seen.items():
        assert value.dtype == dtype
        assert torch.equal(value, origins.draw(name, origin).to(dtype))
    assert torch.equal(model[5].bias, origins.draw("5.bias", origin).to(dtype))


# What the ways of forgetting make of them

NORM = ("1.weight", "1.bias")


@pytest.mark.parametrize("norm_option", ["ones", "skip", "uniform"])
@pytest.mark.parametrize("origin", ORIGINS)
def test_masked_writes_what_its_options_say(origin, norm_option):
    model, began = convnet(), values(convnet(seed=1))
    before = values(model)
    masks = forgetkit.select(forgetkit.score(model, importance="random", seed=5), fraction=0.6, seed=5)
    assert all(bool(masks[name].any()) for name in NORM)
    spec = f"masked:fraction=0.6,fresh={origin},norm={norm_option}"
    report = forgetkit.unlearn(model, importance="random", reinit=spec, seed=5, initial=began)
    origins = FreshValues(model, ModelHistory(initial=began.__getitem__), Seeds(5))
    for name, parameter in model.named_parameters():
        source = origin if name not in NORM else {"ones": "original", "uniform": "uniform", "skip": None}[norm_option]
        mask = masks[name] if source is not None else torch.zeros_like(masks[name])
        assert torch.equal(bits(parameter)[~mask], bits(before[name])[~mask])
        if source is None:
            assert name not in report.layers
        else:
            assert torch.equal(parameter[mask], origins.draw(name, source)[mask])
            assert report.layers[name].reset == int(mask.sum())
    if norm_option == "ones":
        assert (model[1].weight[masks["1.weight"]] == 1).all()
        assert (model[1].bias[masks["1.bias"]] == 0).all()
    elif norm_option == "uniform":
        assert (model[1].weight[masks["1.weight"]].abs() < 1).all()


@pytest.mark.parametrize(
    ("params", "open_names"),
    [
        ("all", {"0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias"}),
        ("weights", {"0.weight", "1.weight", "5.weight"}),
        ("conv-linear", {"0.weight", "5.weight"}),
    ],
)
def test_masked_selects_over_all_and_resets_what_is_in_scope(params, open_names):
    """Other than with score-params, where the threshold is one over what is in scope."""
    model = convnet()
    before = values(model)
    masks = forgetkit.select(forgetkit.score(model, images(6), seed=5), fraction=0.6, seed=5)
    report = forgetkit.unlearn(model, images(6), reinit=f"masked:fraction=0.6,params={params}", seed=5)
    assert report.scored == 79
    assert set(report.layers) == open_names
    assert report.reset == sum(int(masks[name].sum()) for name in open_names)
    assert set(changed(model, before)) <= open_names

    model = convnet()
    report = forgetkit.unlearn(model, images(6), reinit="masked:fraction=0.6", seed=5, scoring=Scoring(params=params))
    total = sum(before[name].numel() for name in open_names)
    assert (report.scored, report.reset) == (total, total * 6 // 10)
    assert set(report.layers) == open_names
    scored = forgetkit.score(convnet(), images(6), scoring=Scoring(params=params))
    assert set(scored) == open_names


@pytest.mark.parametrize("which", ["lowest", "highest"])
@pytest.mark.parametrize("ties", ["random", "stable", "drop"])
@pytest.mark.parametrize("rounding", ["down", "up"])
def test_masked_hands_its_options_to_the_selection(which, ties, rounding):
    """On scores of which many tie, each option tells."""
    model = mlp(6)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p * 8).round())
    scores = {name: p.detach().abs() for name, p in model.named_parameters()}
    masks = forgetkit.select(scores, fraction=0.33, seed=2, which=which, ties=ties, rounding=rounding)
    spec = f"masked:fraction=0.33,which={which},ties={ties},round={rounding}"
    report = forgetkit.unlearn(model, importance="magnitude", reinit=spec, seed=2)
    assert {name: layer.reset for name, layer in report.layers.items()} == {n: int(m.sum()) for n, m in masks.items()}
    if ties != "drop":
        assert report.reset == (21 if rounding == "down" else 22)  # 0.33 of 64 is 21.12
    taken = [float(score) for name in masks for score in scores[name][masks[name]]]
    assert report.threshold == (max(taken) if which == "lowest" else min(taken))


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("spec", ["rifle:fresh={}", "llf:start=2,fresh={}", "llf:start=1,norm=reset,fresh={}"])
def test_rifle_and_llf_write_what_their_options_say(spec, origin):
    """Running statistics start at 0 and 1, whatever the parameters do."""
    model, began = convnet(), values(convnet(seed=1))
    report = forgetkit.unlearn(model, images(6), reinit=spec.format(origin), seed=5, initial=began)
    origins = FreshValues(model, ModelHistory(initial=began.__getitem__), Seeds(5))
    assert set(report.layers) >= {"5.weight", "5.bias"}
    assert ("0.weight" in report.layers) == ("start=1" in spec)
    for name in report.layers:
        assert torch.equal(dict(model.named_parameters())[name], origins.draw(name, origin))
    if "reset" in spec:
        assert {"1.weight", "1.bias"} <= set(report.layers)
        assert model[1].running_mean.tolist() == [0] * 3
        assert model[1].running_var.tolist() == [1] * 3


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("all", {"0.weight", "0.bias", "5.weight", "5.bias"}),
        ("weights", {"0.weight", "5.weight"}),
        ("conv-linear", {"0.weight", "5.weight"}),
    ],
)
def test_llf_resets_what_is_in_scope(params, expected):
    report = forgetkit.unlearn(convnet(), images(6), reinit=f"llf:start=1,params={params}")
    assert set(report.layers) == expected
    with_norms = forgetkit.unlearn(convnet(), images(6), reinit=f"llf:start=1,norm=reset,params={params}")
    norms = {"all": {"1.weight", "1.bias"}, "weights": {"1.weight"}, "conv-linear": set()}[params]
    assert set(with_norms.layers) == expected | norms


@pytest.mark.parametrize(
    ("start", "first"), [(1, 0), (2, 1), (4, 3), (0.0, 0), (0.25, 1), (0.43, 2), (0.51, 3), (0.75, 3)]
)
def test_llf_starts_with_a_layer_or_after_a_share(start, first):
    model = mlp(6, 6, 6)
    before = values(model)
    forgetkit.unlearn(model, vectors(3), reinit=f"llf:start={start}")
    assert set(changed(model, before)) == {f"{2 * at}.{part}" for at in range(first, 4) for part in ("weight", "bias")}


@pytest.mark.parametrize("draw", ["original", "layer-default", "uniform", "rewind", "gaussian"])
def test_shrink_perturb_draws_as_it_says(draw):
    model, began = convnet(), values(convnet(seed=1))
    before = values(model)
    spec = f"shrink-perturb:shrink=0.5,noise=0.25,draw={draw}"
    forgetkit.unlearn(model, reinit=spec, seed=5, initial=began)
    origins = FreshValues(model, ModelHistory(initial=began.__getitem__), Seeds(5))
    for name, parameter in model.named_parameters():
        noise = (parameter.detach() - 0.5 * before[name]) / 0.25
        if draw != "gaussian":
            torch.testing.assert_close(noise, origins.draw(name, draw), rtol=1e-5, atol=1e-5)


def test_gaussian_noise_is_standard_normal_and_seeded():
    """For each parameter from a stream of its own, scales of normalisation included."""
    model = nn.Sequential(nn.Linear(5, 400), nn.LayerNorm(400), nn.Linear(400, CLASSES))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed + len(drawn))
        forgetkit.unlearn(model, reinit="shrink-perturb:shrink=0,noise=1,draw=gaussian", seed=seed)
        drawn.append(values(model))
    for name, value in drawn[0].items():
        assert torch.equal(value, drawn[1][name])
        assert not torch.equal(value, drawn[2][name])
        assert kstest(value.flatten().numpy(), norm(0, 1).cdf).pvalue > UNLIKELY
    assert not torch.equal(drawn[0]["1.weight"], drawn[0]["1.bias"])


@pytest.mark.parametrize("stats", ["keep", "reset"])
@pytest.mark.parametrize("params", ["all", "weights", "conv-linear"])
def test_shrink_perturb_touches_what_is_in_scope(params, stats):
    model = convnet()
    before = values(model)
    report = forgetkit.unlearn(model, reinit=f"shrink-perturb:params={params},stats={stats}")
    inside = {
        "all": {name for name, _ in model.named_parameters()},
        "weights": {"0.weight", "1.weight", "5.weight"},
        "conv-linear": {"0.weight", "5.weight"},
    }[params]
    statistics = {"1.running_mean", "1.running_var"} if stats == "reset" else set()
    assert set(report.layers) == inside
    assert set(changed(model, before)) == inside | statistics
    assert set(report.buffers) == (statistics | {"1.num_batches_tracked"} if statistics else set())


def test_a_cold_start_with_the_same_network_each_time():
    began = values(scrambled(convnet(), 3))
    model = convnet()
    for seed in (1, 2):
        report = forgetkit.unlearn(model, reinit="cold:draw=same", seed=seed, initial=began)
        assert changed(model, began) == {}
        assert report.reset == 79
        assert set(report.buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    with pytest.raises(OptionError, match="pass initial="):
        forgetkit.unlearn(model, reinit="cold:draw=same")


@pytest.mark.parametrize(
    "give",
    [lambda m: m.state_dict(), lambda m: {n: t.double() for n, t in values(m).items()}],
    ids=["state", "float64"],
)
def test_a_state_will_do_to_rewind_to(give: Callable[[nn.Module], dict[str, Tensor]]):
    model, start = convnet(), convnet(seed=8)
    expected = values(start)
    forgetkit.unlearn(model, images(4), reinit="masked:fraction=1,fresh=rewind,norm=skip", initial=give(start))
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters() if name not in NORM)
    assert changed(start, expected) == {}


def test_the_library_function_equals_the_python_api():
    """``unlearning.unlearn`` with a past is ``forgetkit.unlearn`` with its parts."""
    one, two, began = convnet(), convnet(), values(convnet(seed=1))
    given = {"fraction": 0.5, "fresh": "rewind"}
    unlearning.unlearn(
        one, images(4), importance=Random(), reinit=Masked(**given), seeds=Seeds(3),
        history=ModelHistory(initial=began.__getitem__),
    )  # fmt: skip
    forgetkit.unlearn(two, images(4), importance=Random(), reinit=Masked(**given), seed=3, initial=began)
    assert changed(one, values(two)) == {}


def test_a_build_that_fails_later_leaves_the_network_alone():
    calls = []

    def build():
        calls.append(None)
        if len(calls) > 1:
            raise RuntimeError("no second network")
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="no second network"):
        forgetkit.unlearn(model, importance="magnitude", reinit="masked:fraction=0.5", build=build)
    assert all(map(torch.equal, model.parameters(), before))
