"""What a network is made of is seen in its modules and in one real batch, never in names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.unlearning_networks import (
    CLASSES,
    Net,
    changed,
    convnet,
    images,
    layers_of,
    mlp,
    refused,
    scrambled,
    values,
    vectors,
)
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import forgetkit
from forgetkit.errors import NoMatchError, OptionError
from forgetkit.unlearning import Scoring, head_of
from forgetkit.unlearning.structure import names_in

WORDS = [(torch.randint(7, (9, 3), generator=torch.Generator().manual_seed(0)), torch.arange(9) % CLASSES)]
REINITS = ["masked", "masked:fraction=1", "cold", "llf:start=0.0", "rifle", "shrink-perturb"]


def backwards() -> Net:
    """Registers its layers in another order than it runs them in, under names that mislead."""
    return Net(
        lambda net, x: net.conv1(net.first_norm(net.head(net.fc(x).relu()))),
        conv1=nn.Linear(6, CLASSES), fc=nn.Linear(5, 6), head=nn.Linear(6, 6), first_norm=nn.LayerNorm(6),
    )  # fmt: skip


def test_layers_stand_in_the_order_of_execution():
    layers = layers_of(backwards(), vectors(3))
    assert [layer.name for layer in layers] == ["fc", "head", "first_norm", "conv1"]
    assert [layer.kind for layer in layers] == ["weight", "weight", "norm", "weight"]
    assert [layer.linear for layer in layers] == [True, True, False, True]
    assert layers[3].parameters == ("conv1.weight", "conv1.bias")


def test_the_head_is_the_linear_layer_that_runs_last():
    model = backwards()
    before = values(model)
    report = forgetkit.unlearn(model, vectors(3), reinit="rifle")
    assert set(report.layers) == set(changed(model, before)) == {"conv1.weight", "conv1.bias"}


def test_later_layers_are_those_that_run_later():
    model = backwards()
    before = values(model)
    report = forgetkit.unlearn(model, vectors(3), reinit="llf:start=0.5")
    assert list(report.layers) == ["conv1.weight", "conv1.bias"]  # of three weighted layers two are kept
    assert set(changed(model, before)) == set(report.layers)


def test_the_kinds_of_layers():
    kinds: list[tuple[nn.Module, str]] = [
        (nn.Conv2d(4, 4, 1), "weight"),
        (nn.BatchNorm2d(4), "norm"),
        (nn.PReLU(4), "other"),
        (nn.GroupNorm(2, 4), "norm"),
        (nn.ConvTranspose2d(4, 4, 1), "weight"),
        (nn.InstanceNorm2d(4, affine=True), "norm"),
        (nn.LayerNorm([4, 3, 3]), "norm"),  # its scale has three dimensions, and it is a norm all the same
        (nn.RMSNorm([4, 3, 3]), "norm"),
        (nn.Conv2d(4, 4, 3, groups=4), "weight"),
    ]
    model = nn.Sequential(*[module for module, _ in kinds], nn.Flatten(), nn.Linear(4, CLASSES))
    layers = layers_of(model, [(torch.randn(2, 4, 3, 3), torch.tensor([0, 1]))])
    assert [layer.kind for layer in layers] == [kind for _, kind in kinds] + ["weight"]
    assert layers[1].buffers == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    head = head_of(layers)
    assert head is not None
    assert head.name == "10"


def test_no_linear_layer_no_head():
    model = nn.Sequential(nn.Conv2d(2, CLASSES, 5), nn.Flatten())
    with refused(NoMatchError, match="head", unchanged=model):
        forgetkit.unlearn(model, images(3), reinit="rifle")


@pytest.mark.parametrize("reinit", REINITS)
def test_the_frozen_is_never_reset(reinit):
    model = convnet().train()
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    model[5].bias.requires_grad_(False)
    before = values(model)
    report = forgetkit.unlearn(model, images(6), reinit=reinit)
    frozen = {"0.weight", "0.bias", "1.weight", "1.bias", "5.bias"}
    assert report.left_out == dict.fromkeys(frozen, "frozen")
    # Nor the running statistics of a frozen normalisation layer.
    assert set(changed(model, before)) == set(report.layers) == {"5.weight"}
    assert report.buffers == ()
    assert report.scored == (12 if reinit.startswith("masked") else 0)
    assert not any(p.requires_grad for name, p in model.named_parameters() if name in frozen)


def test_a_frozen_head_is_the_head_still():
    """Nothing of it may be reset, and no hidden layer is reset in its place."""
    model = mlp(6, 6)
    model[4].requires_grad_(False)
    with refused(NoMatchError, unchanged=model):
        forgetkit.unlearn(model, vectors(3), reinit="rifle")


def test_depth_counts_frozen_layers_too():
    """Of five weighted layers the first two are kept; that the third is frozen does not move the place."""
    model = mlp(6, 6, 6, 6)
    for at in (0, 2, 4):
        model[at].requires_grad_(False)
    report = forgetkit.unlearn(model, vectors(3), reinit="llf:start=0.4")
    assert set(report.layers) == {"6.weight", "6.bias", "8.weight", "8.bias"}


def partly() -> Net:
    """Has a branch that runs to no effect, a branch that never runs, and a parameter that nobody reads."""

    def run(net: Net, x: Tensor) -> Tensor:
        features = net.body(x).relu()
        net.idle(features)
        return net.head(features)

    return Net(
        run, body=nn.Linear(5, 6), head=nn.Linear(6, CLASSES), idle=nn.Linear(6, 2),
        never=nn.Sequential(nn.Linear(3, 3)), spare=nn.Parameter(torch.zeros(2)),
    )  # fmt: skip


@pytest.mark.parametrize("reinit", REINITS)
def test_the_unused_takes_no_part(reinit):
    model = partly()
    before = values(model)
    report = forgetkit.unlearn(model, vectors(4), reinit=reinit)
    unused = {"idle.weight", "idle.bias", "never.0.weight", "never.0.bias", "spare"}
    assert report.left_out == dict.fromkeys(unused, "unused")
    assert not unused & set(changed(model, before))
    assert not unused & set(report.layers)
    if reinit == "rifle":
        assert set(report.layers) == {"head.weight", "head.bias"}
    assert [layer.name for layer in layers_of(model, vectors(4))] == ["body", "head"]
    assert not unused & set(forgetkit.score(model, vectors(4)))


class Tied(nn.Module):
    """Reads and writes with one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5, padding_idx=2)
        self.mix = nn.Linear(5, 5)
        self.out = nn.Linear(5, 7, bias=False)
        self.out.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.mix(self.table(words).mean(1)).tanh())


@pytest.mark.parametrize("reinit", ["masked:fraction=1", "cold", "shrink-perturb"])
def test_a_tied_weight_is_reset_once_and_stays_tied(reinit):
    torch.manual_seed(0)
    model = Tied()
    before = values(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = forgetkit.unlearn(model, WORDS, reinit=reinit, optimizer=optimizer)
    assert set(report.layers) == {"table.weight", "mix.weight", "mix.bias"}
    assert report.reset == 35 + 25 + 5
    assert model.out.weight is model.table.weight
    assert changed(model, before)["table.weight"][[0, 1, 3, 4, 5, 6]].all()


def test_a_shared_weight_stands_with_every_layer_that_holds_it():
    """Under its one name. As the head's it is reset with it; a layer that is kept keeps it from a later one."""
    torch.manual_seed(0)
    model = Tied()
    shared = [layer.name for layer in layers_of(model, WORDS) if "table.weight" in layer.parameters]
    assert shared == ["table", "out"]
    mix = {"mix.weight", "mix.bias"}
    assert set(forgetkit.unlearn(model, WORDS, reinit="llf:start=0.3").layers) == mix
    assert set(forgetkit.unlearn(model, WORDS, reinit="llf:start=0.0").layers) == {"table.weight"} | mix
    assert set(forgetkit.unlearn(model, WORDS, reinit="rifle").layers) == {"table.weight"}


@pytest.mark.parametrize(
    "reinit", ["masked:fraction=1", "masked:fraction=0.5", "cold", "llf:start=0.0", "shrink-perturb"]
)
def test_the_row_of_padding_stays_zero(reinit):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 5, padding_idx=2), nn.Flatten(), nn.Linear(15, CLASSES))
    before = values(model)
    forgetkit.unlearn(model, WORDS, reinit=reinit)
    assert "0.weight" in changed(model, before)
    assert not model[0].weight[2].any()


def twice() -> Net:
    """Runs one layer twice, with another in between."""
    again = nn.Linear(6, 6)
    return Net(
        lambda net, x: net.out(net.alias(net.between(net.again(net.enter(x)).relu())).relu()),
        out=nn.Linear(6, CLASSES), between=nn.Linear(6, 6, bias=False), again=again, enter=nn.Linear(5, 6), alias=again,
    )  # fmt: skip


def test_a_module_that_runs_twice_is_one_layer():
    model = twice()
    assert [layer.name for layer in layers_of(model, vectors(3))] == ["enter", "again", "between", "out"]
    before = values(model)
    report = forgetkit.unlearn(model, vectors(3), reinit="cold")
    assert set(report.layers) == {n for n, _ in model.named_parameters()} == set(changed(model, before))
    assert report.reset == sum(p.numel() for p in model.parameters())


def attentive() -> Net:
    """Attention uses its output projection's weight without running the projection."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.enter(x).unsqueeze(1)
        return net.head(net.attention(x, x, x, need_weights=False)[0].squeeze(1))

    attention = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
    return Net(run, head=nn.Linear(8, CLASSES), attention=attention, enter=nn.Linear(5, 8))


def test_attention():
    torch.manual_seed(0)
    model = scrambled(attentive())
    layers = layers_of(model, vectors(4))
    assert [layer.name for layer in layers] == ["enter", "attention", "attention.out_proj", "head"]
    before = values(model)
    report = forgetkit.unlearn(model, vectors(4), reinit="llf:start=0.25")
    assert set(report.layers) == {n for n, _ in model.named_parameters() if not n.startswith("enter")}
    assert set(changed(model, before)) == set(report.layers)
    bound = (6 / (8 + 24)) ** 0.5  # Xavier uniform over the three projections in one
    assert float(model.attention.in_proj_weight.detach().abs().max()) <= bound
    assert not model.attention.in_proj_bias.any()
    for importance in ("snip", "fisher", "magnitude", "random"):
        report = forgetkit.unlearn(model, vectors(4), importance=importance)
        assert (report.scored, report.reset) == (388, 77)


class Shapes(nn.Module):
    """Parameters of no and of one dimension, on a module of no kind."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6)
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.shift = nn.Parameter(torch.ones(CLASSES))

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.scale, 5, 6)
        nn.init.uniform_(self.shift, 7, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.net(inputs) + self.shift


def test_parameters_of_no_and_of_one_dimension():
    model = Shapes()
    layers = layers_of(model, vectors(3))
    assert [(layer.name, layer.kind) for layer in layers] == [("", "other"), ("net.0", "weight"), ("net.2", "weight")]
    scores = forgetkit.score(model, vectors(3), importance="fisher")
    assert scores["scale"].shape == ()
    forgetkit.unlearn(model, vectors(3), reinit="masked:fraction=1")
    assert 5 <= float(model.scale.detach()) < 6
    assert 7 <= float(model.shift.detach().min()) <= float(model.shift.detach().max()) < 8


def normalised() -> nn.Sequential:
    return nn.Sequential(spectral_norm(nn.Linear(5, 6)), nn.ReLU(), weight_norm(nn.Linear(6, CLASSES)))


def test_what_a_weight_is_computed_from_belongs_to_its_layer():
    model = normalised()
    layers = layers_of(model, vectors(3))
    of_weight = "2.parametrizations.weight.original"
    assert [(layer.name, layer.kind, layer.linear) for layer in layers] == [
        ("0", "weight", True),
        ("2", "weight", True),
    ]
    assert set(layers[1].parameters) == {"2.bias", f"{of_weight}0", f"{of_weight}1"}
    assert set(layers[0].parameters) == {"0.bias", "0.parametrizations.weight.original"}


@pytest.mark.parametrize("reinit", REINITS)
def test_a_parametrised_network_is_built_anew(reinit):
    torch.manual_seed(0)
    model = scrambled(normalised())
    before, old = values(model), model[2].weight.detach().clone()
    report = forgetkit.unlearn(model, vectors(3), reinit=reinit, build=normalised)
    assert set(changed(model, before)) <= {*report.layers, *report.buffers}
    assert not torch.equal(model[2].weight, old)
    if reinit == "rifle":
        assert set(report.layers) == {n for n in before if n.startswith("2.")}
    forgetkit.score(model, vectors(3), importance="fisher")


@pytest.mark.parametrize("reinit", REINITS)
def test_a_parametrised_network_is_drawn_through_its_layers(reinit):
    """It is no half measure such as to reset the bias alone."""
    torch.manual_seed(0)
    model = scrambled(normalised())
    before, old = values(model), model[2].weight.detach().clone()
    report = forgetkit.unlearn(model, vectors(3), reinit=reinit)
    assert {name for name in report.layers if name.startswith("2.")} == {n for n in before if n.startswith("2.")}
    assert not torch.equal(model[2].weight, old)


# Which parameters are in a scope

KERNEL = Net(lambda net, x: x, kernel=nn.Parameter(torch.ones(3, 3)), weight_scale=nn.Parameter(torch.ones(3)))


def scopes(model: nn.Module) -> dict[str, set[str]]:
    return {scope: names_in(model, scope) for scope in ("all", "weights", "conv-linear", "norm")}


@pytest.mark.parametrize(
    ("module", "weights", "kernels", "norm"),
    [
        (nn.Linear(3, 4), {"weight"}, {"weight"}, set()),
        (nn.Conv2d(3, 4, 3, groups=1), {"weight"}, {"weight"}, set()),
        (nn.ConvTranspose1d(3, 4, 3, bias=False), {"weight"}, {"weight"}, set()),
        (nn.Embedding(5, 3), {"weight"}, {"weight"}, set()),
        (nn.BatchNorm2d(4), {"weight"}, set(), {"weight", "bias"}),
        (nn.GroupNorm(2, 4), {"weight"}, set(), {"weight", "bias"}),
        (nn.LayerNorm([4, 3, 3]), {"weight"}, set(), {"weight", "bias"}),  # of three dimensions, and no kernel
        (nn.RMSNorm([4, 3]), {"weight"}, set(), {"weight"}),
        (nn.InstanceNorm1d(4, affine=True), {"weight"}, set(), {"weight", "bias"}),
        (nn.BatchNorm1d(4, affine=False), set(), set(), set()),
        (nn.PReLU(4), {"weight"}, set(), set()),
        (
            nn.LSTM(3, 4, proj_size=2),
            {"weight_ih_l0", "weight_hh_l0", "weight_hr_l0"},
            {"weight_ih_l0", "weight_hh_l0", "weight_hr_l0"},
            set(),
        ),
        (
            nn.MultiheadAttention(4, 2, add_bias_kv=True),
            {"in_proj_weight", "out_proj.weight"},
            {"in_proj_weight", "out_proj.weight"},
            set(),
        ),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=3),
            {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"},
            {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"},
            set(),
        ),
        (
            Net(lambda net, x: x, kernel=nn.Parameter(torch.ones(3, 3)), weight_scale=nn.Parameter(torch.ones(3))),
            {"weight_scale"},
            set(),
            set(),
        ),
    ],
    ids=lambda value: repr(value).partition("\n")[0] if isinstance(value, nn.Module) else "",
)
def test_what_a_module_calls_a_weight_and_what_is_a_kernel(module, weights, kernels, norm):
    everything = {name for name, _ in module.named_parameters()}
    assert scopes(module) == {"all": everything, "weights": weights, "conv-linear": kernels, "norm": norm}
    inside = scopes(nn.Sequential(nn.ReLU(), nn.Sequential(module)))  # where it stands has no say
    assert inside["weights"] == {f"1.0.{name}" for name in weights}
    assert inside["norm"] == {f"1.0.{name}" for name in norm}


PARTS = {"weight.original0", "weight.original1"}


@pytest.mark.parametrize(
    ("module", "weights", "kernels", "norm"),
    [
        (weight_norm(nn.Linear(3, 4)), PARTS, PARTS, set()),
        (weight_norm(nn.Conv2d(3, 4, 3), dim=None), PARTS, {"weight.original1"}, set()),
        (spectral_norm(nn.Linear(3, 4)), {"weight.original"}, {"weight.original"}, set()),
        (weight_norm(nn.LayerNorm(4)), PARTS, set(), PARTS),
        (weight_norm(weight_norm(nn.MultiheadAttention(4, 2), "in_proj_weight"), "in_proj_bias"),
         {f"in_proj_{part}" for part in PARTS}, {f"in_proj_{part}" for part in PARTS}, set()),
    ],
    ids=["linear", "of no dimension", "spectral", "norm", "attention"],
)  # fmt: skip
def test_what_parametrises_a_weight_is_that_weight(module, weights, kernels, norm):
    """A bias that is parametrised is none, whatever torch calls the parts; their kind is that of what computes."""
    found = scopes(module)
    assert found["all"] == {name for name, _ in module.named_parameters()}
    others = {"out_proj.weight"} if isinstance(module, nn.MultiheadAttention) else set()
    assert found["weights"] == {f"parametrizations.{name}" for name in weights} | others
    assert found["conv-linear"] == {f"parametrizations.{name}" for name in kernels} | others
    assert found["norm"] == {f"parametrizations.{name}" for name in norm} | ({"bias"} if norm else set())


def test_a_shared_parameter_is_in_scope_once():
    assert scopes(Tied()) == {
        "all": {"table.weight", "mix.weight", "mix.bias"},
        "weights": {"table.weight", "mix.weight"},
        "conv-linear": {"table.weight", "mix.weight"},
        "norm": set(),
    }


def test_a_name_says_nothing():
    """Not of a module, and not of a parameter beyond its module's word for it."""
    model = nn.Sequential()
    model.add_module("bn_weight", nn.Linear(3, 3))
    model.add_module("downsample", nn.BatchNorm1d(3))
    assert scopes(model) == {
        "all": {"bn_weight.weight", "bn_weight.bias", "downsample.weight", "downsample.bias"},
        "weights": {"bn_weight.weight", "downsample.weight"},
        "conv-linear": {"bn_weight.weight"},
        "norm": {"downsample.weight", "downsample.bias"},
    }


def test_a_scope_that_holds_nothing_trainable():
    model = nn.Sequential(nn.Linear(5, CLASSES), nn.LayerNorm(CLASSES))
    model[0].weight.requires_grad_(False)
    with refused(NoMatchError, match="score-params=conv-linear: Sequential has no such parameter", unchanged=model):
        forgetkit.unlearn(model, vectors(3), scoring=Scoring(params="conv-linear"))
    assert set(forgetkit.score(model, vectors(3), scoring=Scoring(params="weights"))) == {"1.weight"}
    for reinit in ("masked:params=conv-linear,fraction=1", "shrink-perturb:params=conv-linear"):
        with refused(NoMatchError, match="matched no parameter", unchanged=model):
            forgetkit.unlearn(model, vectors(3), reinit=reinit)


def test_nothing_to_train_nothing_to_forget():
    for model in (mlp().requires_grad_(False), nn.Sequential(nn.ReLU())):
        with pytest.raises(NoMatchError, match="trainable"):
            forgetkit.unlearn(model, vectors(3), reinit="cold")


@pytest.mark.parametrize("reinit", ["llf", "rifle"])
def test_the_order_of_execution_needs_a_batch(reinit):
    with pytest.raises(OptionError, match="batch"):
        forgetkit.unlearn(mlp(), reinit=reinit)


@pytest.mark.parametrize("reinit", ["cold", "shrink-perturb", "none"])
def test_other_methods_need_no_batch(reinit):
    assert forgetkit.unlearn(mlp(), reinit=reinit).reset == (0 if reinit == "none" else 24)


def test_looking_leaves_no_hook_behind():
    model = backwards()
    layers_of(model, vectors(3))
    hooks: list[Any] = [t for m in model.modules() for key, t in vars(m).items() if "_hooks" in key and t]
    assert hooks == []
