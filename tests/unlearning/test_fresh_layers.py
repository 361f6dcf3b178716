"""Fresh values come from the distribution that each module itself starts from, one stream per parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from helpers.unlearning_networks import (
    CLASSES,
    Net,
    changed,
    check_uniform,
    convnet,
    mlp,
    refused,
    scrambled,
    unlearn_with,
    values,
    vectors,
)
from scipy.stats import kstest, norm
from torch import Tensor, nn

import forgetkit
from forgetkit import unlearning
from forgetkit.builtin.reinit.cold import Cold
from forgetkit.contracts import Change, Inputs, ReinitContext
from forgetkit.errors import ComponentError, OptionError
from forgetkit.registry import registry
from forgetkit.seeding import Seeds
from forgetkit.unlearning import ModelHistory
from forgetkit.unlearning.layerwise import LayerwiseFresh

UNLIKELY = 1e-6


def drawn(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """What every parameter and buffer of ``model`` would be drawn as."""
    draws = LayerwiseFresh(model, None, Seeds(seed))
    return {name: draws.draw(name) for name in values(model)}


@pytest.mark.parametrize(
    ("module", "fan_in"),
    [
        (nn.Linear(50, 300), 50),
        (nn.Conv2d(12, 300, 3), 108),
        (nn.Conv2d(12, 240, 3, groups=4), 27),
        (nn.Conv1d(20, 300, 5), 100),
        (nn.ConvTranspose2d(240, 12, 3), 108),  # as torch counts it: over the outputs
    ],
    ids=repr,
)
def test_a_linear_or_convolutional_layer(module, fan_in):
    """Its weight and, from a stream of its own, its bias: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))."""
    fresh = drawn(scrambled(nn.Sequential(module)))
    check_uniform(fresh["0.weight"], 1 / math.sqrt(fan_in))
    check_uniform(fresh["0.bias"], 1 / math.sqrt(fan_in))
    with pytest.raises(AssertionError):  # the test can tell another scale
        check_uniform(fresh["0.weight"], 1.2 / math.sqrt(fan_in))


@pytest.mark.parametrize(
    "module",
    [nn.BatchNorm1d(7), nn.BatchNorm2d(7), nn.GroupNorm(7, 7), nn.LayerNorm(7), nn.InstanceNorm1d(7, affine=True),
     nn.RMSNorm(7)],
    ids=repr,
)  # fmt: skip
def test_a_normalisation_layer(module):
    fresh = drawn(scrambled(nn.Sequential(module)))
    assert (fresh.pop("0.weight") == 1).all()
    for name, value in fresh.items():
        assert (value == (1 if name.endswith("var") else 0)).all()


def test_an_embedding():
    fresh = drawn(scrambled(nn.Sequential(nn.Embedding(200, 30, padding_idx=3))))["0.weight"]
    assert not fresh[3].any()
    rest = torch.cat([fresh[:3], fresh[4:]])
    assert kstest(rest.flatten().numpy(), norm(0, 1).cdf).pvalue > UNLIKELY


@pytest.mark.parametrize("name", ["resnet18", "vgg16-bn", "convnet", "mlp"])
def test_a_builder_s_own_initialisation(name):
    """Of the project's own networks: a convolution Kaiming normal over the outputs, as the paper's code has it."""
    size = 32 if name == "vgg16-bn" else 8
    builder = registry.load().make("models", name)[1]
    torch.manual_seed(0)
    model = builder.build(Inputs((3, size, size), 10, (0.5,) * 3, (0.25,) * 3), nn.Identity())
    draws = LayerwiseFresh(model, builder.initialise, Seeds(0))
    checked = 0
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() < 200_000:
            spread = math.sqrt(2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1]))
            value = draws.draw(f"{path}.weight").flatten()
            assert kstest(value[:20_000].numpy(), norm(0, spread).cdf).pvalue > UNLIKELY
        elif isinstance(module, nn.Linear) and name == "vgg16-bn":
            assert kstest(draws.draw(f"{path}.weight").flatten().numpy(), norm(0, 0.01).cdf).pvalue > UNLIKELY
        elif isinstance(module, nn.Linear):
            check_uniform(draws.draw(f"{path}.weight")[:200], 1 / math.sqrt(module.in_features))
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            assert (draws.draw(f"{path}.weight") == 1).all()
        else:
            continue
        checked += 1
    assert checked >= 5


def named(extra: int) -> Net:
    """Two layers under names of their own, and perhaps others in between."""
    between = nn.Sequential(*[nn.Linear(6, 6) for _ in range(extra)])
    enter, head = nn.Linear(5, 6), nn.Linear(6, CLASSES)
    return Net(lambda net, x: net.head(net.between(net.enter(x))), enter=enter, between=between, head=head)


def test_a_draw_is_a_function_of_the_seed_and_the_name_alone():
    """Not of the values, the mode, the dtype, the other layers, the order, or the global random state."""
    torch.manual_seed(0)
    model = named(0)
    expected = drawn(model, seed=3)
    torch.manual_seed(1)
    for other in (named(0), named(2), scrambled(named(1)).eval(), named(0).bfloat16(), named(0).double()):
        fresh = drawn(other, seed=3)
        assert all(torch.equal(fresh[name], value) for name, value in expected.items())
    draws = LayerwiseFresh(model, None, Seeds(3))
    backwards = {name: draws.draw(name) for name in reversed(list(expected))}
    again = {name: draws.draw(name) for name in expected}
    assert all(
        torch.equal(value, backwards[name]) and torch.equal(value, again[name]) for name, value in expected.items()
    )
    fresh = drawn(model, seed=4)
    assert not any(torch.equal(fresh[name], value) for name, value in expected.items())


def test_layers_of_one_shape_do_not_share_a_draw():
    fresh = drawn(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)))
    assert not (fresh["0.weight"] == fresh["1.weight"]).any()
    assert not (fresh["0.weight"][0] == fresh["0.bias"]).any()


def test_drawing_changes_nothing():
    model = convnet()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, state = values(model), torch.get_rng_state()
    drawn(model)
    assert changed(model, before) == {}
    assert torch.equal(state, torch.get_rng_state())
    assert (model[0].weight.grad == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_precision_gets_the_same_values_rounded(dtype):
    model = convnet(dtype=dtype)
    forgetkit.unlearn(model, reinit="cold", seed=5)
    fresh = drawn(convnet(), seed=5)
    for name, value in values(model).items():
        assert value.dtype == (dtype if value.is_floating_point() else torch.int64)
        assert torch.equal(value, fresh[name].to(value.dtype))


def initialise(module: nn.Module) -> None:
    """How a network of somebody's own might start."""
    if isinstance(module, nn.Linear):
        nn.init.constant_(module.weight, 5.0)
        nn.init.uniform_(module.bias, 1, 2)


def test_initialise_is_used_where_it_is_given():
    model = mlp(6)
    unlearning.unlearn(
        model, None, importance=None, reinit=Cold(), seeds=Seeds(0), history=ModelHistory(initialise=initialise)
    )
    for at in (0, 2):
        assert (model[at].weight == 5).all()
        assert ((model[at].bias >= 1) & (model[at].bias < 2)).all()
    assert not torch.equal(model[0].bias[:4], model[2].bias)


def test_what_initialise_leaves_alone_is_not_fresh():
    """An old value does not pass for a fresh one."""
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, CLASSES))
    with refused(ComponentError, match=r"'1\.weight'.*initialise\(\) of LayerNorm"):
        unlearning.unlearn(
            model, None, importance=None, reinit=Cold(), seeds=Seeds(0), history=ModelHistory(initialise=initialise)
        )


def built() -> nn.Sequential:
    """A network that only its constructor knows how to start."""
    model = convnet()
    with torch.no_grad():
        model[0].weight.fill_(9.0)
        model[5].weight.normal_(7.0, 1.0)
        model[1].running_mean.fill_(3.0)
    return model


def test_build_is_used_where_it_is_given_once_for_all_parameters():
    calls = []

    def build() -> nn.Module:
        calls.append(torch.rand(1))
        return built()

    model = convnet()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    forgetkit.unlearn(model, reinit="cold", build=build, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert (model[0].weight == 9).all()
    assert (model[1].running_mean == 3).all()
    first = model[5].weight.detach().clone()
    forgetkit.unlearn(model, reinit="cold", build=build, seed=1)
    assert len(calls) == 6  # of which two show what all builds have in common
    assert torch.equal(calls[0], calls[3])
    assert torch.equal(first, model[5].weight)
    forgetkit.unlearn(model, reinit="cold", build=build, seed=2)
    assert not torch.equal(calls[6], calls[0])


def test_build_that_draws_from_the_global_state():
    """The values are a function of the seed, whatever the global state was."""
    model = mlp(6)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, CLASSES))

    results = []
    for seed, state in ((1, 0), (1, 1), (2, 0)):
        torch.manual_seed(state)
        forgetkit.unlearn(model, reinit="cold", build=build, seed=seed)
        results.append(model[0].weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not (results[0] == results[2]).any()


def test_build_of_another_architecture():
    for build, named in ((lambda: mlp(6, 6), r"shape"), (lambda: nn.Sequential(nn.Linear(5, 6)), r"2\.weight")):
        with refused(ComponentError, match=named):
            forgetkit.unlearn(mlp(6), reinit="cold", build=build)


class Phases(nn.Module):
    """Holds complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.zeros(4, 5, dtype=torch.complex64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            torch.view_as_real(self.phase).normal_()

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs @ self.phase.t()).abs()


class Halfway(Phases):
    """Starts their real parts alone."""

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.phase.real.normal_()


def test_complex_parameters():
    model = nn.Sequential(Phases())
    before = model[0].phase.detach().clone()
    forgetkit.unlearn(model, reinit="cold")
    assert bool((model[0].phase.real != before.real).all())
    assert bool((model[0].phase.imag != before.imag).all())
    with pytest.raises(ComponentError, match="leaves it as it is"):
        forgetkit.unlearn(nn.Sequential(Halfway()), reinit="cold")


class Token(nn.Module):
    """Holds a parameter and does not say how it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.rand(1, 5))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.token


class Forgetful(nn.Linear):
    """Starts its parent's parameters, and not its own."""

    def __init__(self) -> None:
        super().__init__(5, 5)
        self.gain = nn.Parameter(torch.rand(5))

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * self.gain


@pytest.mark.parametrize(("module", "name"), [(Token(), "token"), (Forgetful(), "gain")])
@pytest.mark.parametrize("reinit", ["masked", "cold", "shrink-perturb", "llf:start=0.0"])
def test_a_parameter_that_nobody_knows_how_to_start(module, name, reinit):
    model = nn.Sequential(module, nn.Linear(5, CLASSES))
    with pytest.raises(ComponentError, match=rf"'0\.{name}'.*build=") as caught:
        forgetkit.unlearn(model, vectors(3), reinit=reinit)
    assert type(module).__name__ in str(caught.value)
    assert "\n" not in str(caught.value)
    # The remedy that the message names is one.
    built = nn.Sequential(type(module)(), nn.Linear(5, CLASSES))
    report = forgetkit.unlearn(model, vectors(3), reinit=reinit, build=lambda: built)
    assert f"0.{name}" in report.layers or reinit.startswith("llf")


def test_a_way_of_forgetting_may_ask_for_less():
    """It may look at buffers, draw numbers of its own and take a part of a fresh draw."""
    seen = {}

    def propose(context: ReinitContext) -> Iterator[Change]:
        seen["buffers"] = set(context.buffers)
        seen["numbers"] = [torch.rand(2, generator=context.rng(name)).tolist() for name in ("a", "a", "b")]
        for name in ("nothing", "2.running_mean"):
            with pytest.raises(OptionError, match=name):
                context.fresh(name)
        with pytest.raises(OptionError, match="needs_scores"):
            context.select(0.5)
        yield Change("5.bias", None, 0.5 * context.fresh("5.bias"))

    model = convnet()
    unlearn_with(propose, model)
    assert seen["buffers"] == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert seen["numbers"][0] == seen["numbers"][1] != seen["numbers"][2]
    assert torch.equal(model[5].bias, 0.5 * drawn(model)["5.bias"])
