"""Criteria made of weights, activations and the way through the network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from forgetkit_saliency.synflow import Synflow
from saliency_nets import batches, convnet, flat, mlp, parameters, residual, together
from torch import Tensor, nn

import forgetkit
from forgetkit.contracts import Probe
from forgetkit.errors import OptionError

IMAGES = (2, 5, 5)
close = torch.testing.assert_close


def test_lamp_in_loops() -> None:
    model = convnet()
    with torch.no_grad():
        model[0].weight[0, 0, 0] = 0.25  # ties
        model[0].weight[1, 1, 1] = 0.0
    scores = forgetkit.score(model, importance="lamp")
    for name, value in parameters(model).items():
        entries = value.flatten().tolist()
        expected = [x * x / sum(y * y for y in entries if y * y >= x * x) if x else 0.0 for x in entries]
        close(scores[name].flatten(), torch.tensor(expected, dtype=torch.float64))


def test_lamp_is_fair_between_layers() -> None:
    model = mlp()
    scores = forgetkit.score(model, importance="lamp")
    for name, value in parameters(model).items():
        assert 0 < float(scores[name].min()) < float(scores[name].max()) == 1
        close(scores[name].min(), value.square().min() / value.square().sum())
        assert torch.equal(scores[name].flatten().argsort(), value.abs().flatten().argsort())
    with torch.no_grad():
        model[0].weight *= 1e-3
    close(forgetkit.score(model, importance="lamp"), scores)


def test_lamp_of_small_weights_in_single_precision() -> None:
    model = nn.Linear(40, 40)
    usual = forgetkit.score(model, importance="lamp")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0**-80)  # whose squares single precision cannot hold
    close(forgetkit.score(model, importance="lamp"), usual, rtol=0, atol=0)
    assert usual["weight"].dtype == torch.float32


def test_wanda_in_loops() -> None:
    model, data = convnet(groups=2), batches(5, 4, shape=IMAGES)
    scores = forgetkit.score(model, data, importance="wanda:compare=raw")
    inputs, _ = together(data)
    with torch.no_grad():
        first = model[2](model[1](model[0](inputs)))
        second = model[5](model[4](model[3](first)))
        third = model[7](model[6](second))
    weights = parameters(model)
    for o in range(4):
        for i in range(2):
            close(scores["0.weight"][o, i], weights["0.weight"][o, i].abs() * inputs[:, i].norm())
    for o in range(6):
        for i in range(2):  # the first three outputs read the first two channels
            close(scores["3.weight"][o, i], weights["3.weight"][o, i].abs() * first[:, 2 * (o // 3) + i].norm())
    close(scores["6.weight"], weights["6.weight"].abs() * second.square().sum(0).sqrt())
    close(scores["8.weight"], weights["8.weight"].abs() * third.square().sum(0).sqrt())
    places = {"0.bias": 9 * 25, "1.weight": 9 * 9, "1.bias": 9 * 9, "3.bias": 9 * 9, "6.bias": 9, "8.bias": 9}
    for name, count in places.items():
        close(scores[name], weights[name].abs() * math.sqrt(count))


class Gated(nn.Module):
    """A parameter that belongs to no layer with an input of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.rand(5, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.head = nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.gate * self.scale)


def test_wanda_of_what_reads_nothing() -> None:
    model, data = Gated(), batches(4, 2)
    scores = forgetkit.score(model, data, importance="wanda:compare=raw")
    close(scores["gate"], model.gate.detach() * math.sqrt(6))
    ranks = forgetkit.score(model, data, importance="wanda")
    assert sorted(ranks["gate"].tolist()) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert ranks["scale"] == 0


class Reads(nn.Module):
    """Calls its layer by keyword, or uses its weight past it, which hides what it was given."""

    def __init__(self, *, hidden: bool) -> None:
        super().__init__()
        self.head, self.hidden = nn.Linear(5, 3).double(), hidden

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden:
            return nn.functional.linear(x, self.head.weight, self.head.bias)
        return self.head(input=x)


def test_wanda_of_a_layer_that_is_called_by_keyword() -> None:
    model, data = Reads(hidden=False), batches(4, 2)
    scores = forgetkit.score(model, data, importance="wanda:compare=raw")
    lengths = torch.cat([inputs for inputs, _ in data]).square().sum(0).sqrt()
    close(scores["head.weight"], model.head.weight.detach().abs() * lengths)


def test_wanda_of_what_was_not_seen() -> None:
    model = Reads(hidden=True)
    scores = forgetkit.score(model, batches(4, 2), importance="wanda:compare=raw")
    close(scores["head.weight"], model.head.weight.detach().abs() * math.sqrt(6))


def test_wanda_ranks_within_each_row() -> None:
    model, data = convnet(groups=2), batches(5, 4, shape=IMAGES)
    raw, ranks = (forgetkit.score(model, data, importance=f"wanda:compare={how}") for how in ("raw", "row"))
    for name, score in raw.items():
        rows = score.flatten(1) if score.ndim > 1 else score[None]
        for row, found in zip(rows.tolist(), ranks[name].reshape(rows.shape).tolist(), strict=True):
            assert found == pytest.approx([sum(other < one for other in row) / len(row) for one in row])


def test_one_threshold_then_takes_the_same_share_of_each_row() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    with torch.no_grad():
        model[0].weight *= 100
    data = [(torch.randn(20, 10), torch.randint(3, (20,)))]
    scores = forgetkit.score(model, data, importance="wanda")
    masks = forgetkit.select(scores, fraction=0.5)
    assert masks["0.weight"].sum(1).tolist() == [5] * 6
    assert masks["2.weight"].sum(1).tolist() == [3] * 3


def chain(*widths: int, seed: int = 0) -> nn.Sequential:
    """ReLUs between linear layers without biases."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_synflow_in_closed_form() -> None:
    model, data = chain(5, 4, 3).double(), batches(2)
    scores = forgetkit.score(model, data, importance="synflow")
    first, second = model[0].weight.detach().abs(), model[2].weight.detach().abs()
    total = float((second @ first).sum())
    close(scores["0.weight"], first * second.sum(0)[:, None] / total)
    close(scores["2.weight"], second * first.sum(1)[None, :] / total)


def test_synflow_looks_at_no_data() -> None:
    model = convnet()
    close(
        forgetkit.score(model, batches(2, shape=IMAGES, seed=1), importance="synflow"),
        forgetkit.score(model, batches(3, shape=IMAGES, seed=2), importance="synflow"),
        rtol=0,
        atol=0,
    )


def test_synflow_is_kept_from_layer_to_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False)),
        *(
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(6, 5, bias=False),
            nn.ReLU(),
            nn.Linear(5, 3, bias=False),
        ),
    )
    data = [(torch.randn(2, 2, 5, 5), torch.zeros(2, dtype=torch.int64))]
    scores = forgetkit.score(model, data, importance="synflow")
    assert len(scores) == 4
    for score in scores.values():
        assert bool((score > 0).all())
        assert float(score.double().sum()) == pytest.approx(1, rel=1e-5)


def test_synflow_of_a_network_that_single_precision_cannot_hold() -> None:
    model = chain(*[32] * 50, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(100)
    data = [(torch.randn(2, 32), torch.zeros(2, dtype=torch.int64))]
    flow = torch.ones(32)
    for layer in model[::2]:
        flow = layer.weight.detach().abs() @ flow
    assert not bool(flow.isfinite().any())
    for score in forgetkit.score(model, data, importance="synflow").values():
        assert score.dtype == torch.float32
        assert float(score.double().sum()) == pytest.approx(1, rel=1e-5)


def test_synflow_says_where_even_double_precision_ends() -> None:
    model = chain(*[32] * 50, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e10)
    with pytest.raises(OptionError, match="the flow through this network is inf"):
        forgetkit.score(model, [(torch.randn(2, 32), torch.zeros(2, dtype=torch.int64))], importance="synflow")


def test_synflow_passes_normalisation_by() -> None:
    torch.manual_seed(0)
    data = batches(2, shape=IMAGES)
    convolution, head = nn.Conv2d(2, 4, 3, bias=False), nn.Linear(36, 3, bias=False)
    bare = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), head).double()
    expected = forgetkit.score(bare, data, importance="synflow")
    for norm in (nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm([4, 3, 3])):
        nn.init.normal_(norm.weight, -1)
        nn.init.normal_(norm.bias)
        model = nn.Sequential(convolution, norm, nn.ReLU(), nn.Flatten(), head).double()
        scores = forgetkit.score(model, data, importance="synflow")
        close(scores["0.weight"], expected["0.weight"])
        close(scores["4.weight"], expected["3.weight"])
        through = expected["0.weight"].sum((1, 2, 3))
        for name in ("1.weight", "1.bias"):
            by_channel = scores[name].sum((1, 2)) if isinstance(norm, nn.LayerNorm) else scores[name]
            close(by_channel, through)


class LayerNormOverChannels(nn.LayerNorm):
    """As torchvision and timm have it: of maps with channels first."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize(
    ("norm", "dims"),
    [
        *((LayerNormOverChannels(4), (2, 3)), (nn.GroupNorm(4, 4), (2, 3)), (nn.BatchNorm2d(4), (2, 3))),
        *((nn.InstanceNorm2d(4, affine=True), (2, 3)), (nn.LayerNorm(4), (1, 2)), (nn.RMSNorm(4), (1, 2))),
        *((nn.LayerNorm([4, 4]), (1,)), (nn.RMSNorm([4, 4]), (1,)), (nn.LayerNorm([4, 4, 4]), ())),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_synflow_of_a_norm_on_maps_as_wide_as_deep(norm: nn.Module, dims: tuple[int, ...]) -> None:
    """Four channels of 4 × 4: every dimension could be what the scale counts."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 4, 3, padding=1, bias=False).double(), nn.Conv2d(4, 3, 4, bias=False).double()
    model = nn.Sequential(first, norm, nn.ReLU(), second, nn.Flatten()).double()
    scores = forgetkit.score(model, batches(2, shape=(2, 4, 4)), importance="synflow")
    with torch.no_grad():
        maps = nn.functional.conv2d(torch.ones(1, 2, 4, 4).double(), first.weight.abs(), padding=1)
        flow = maps * second.weight.abs().sum(0)
    for name in ("1.weight", "1.bias")[: len(list(norm.parameters()))]:
        close(scores[name], ((flow / flow.sum()).sum(dims) if dims else flow / flow.sum())[0])


class ByKeyword(nn.Module):
    """Calls its layers by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(input=torch.relu(self.norm(input=self.first(input=x))))


def test_synflow_of_layers_that_are_called_by_keyword() -> None:
    model = ByKeyword().double()
    for score in forgetkit.score(model, batches(2), importance="synflow").values():
        assert float(score.sum()) == pytest.approx(1)


def without_norms(model: nn.Module) -> nn.Module:
    """A copy whose layer normalisations do nothing."""
    bare = copy.deepcopy(model)
    for path, module in list(bare.named_modules()):
        if isinstance(module, nn.LayerNorm):
            bare.set_submodule(path, nn.Identity())
    return bare


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=3)


def convnext_of_timm() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=3)


@pytest.mark.slow
@pytest.mark.parametrize("build", [convnext, convnext_of_timm])
def test_synflow_of_a_convnext(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build().double()
    data = batches(2, shape=(3, 32, 32))  # maps of 8 × 8 with 8 channels where the stem ends
    scores, bare = (forgetkit.score(one, data, importance="synflow") for one in (model, without_norms(model)))
    assert len(scores) - len(bare) >= 8
    close({name: scores[name] for name in bare}, bare)


def test_synflow_through_a_residual_network() -> None:
    model = residual()
    nn.init.zeros_(model.head.bias)
    scores = forgetkit.score(model, batches(2, shape=IMAGES), importance="synflow")
    whole = {name: float(score.sum()) for name, score in scores.items()}
    assert whole["stem.weight"] == whole["norm.weight"] == whole["head.weight"] == pytest.approx(1)
    assert whole["inside.weight"] == pytest.approx(whole["back.weight"])
    assert 0.01 < whole["back.weight"] < 0.99
    assert whole["wide.weight"] + whole["short.weight"] == pytest.approx(1)


class Normalised(nn.Module):
    """What comes in is centred first, as in a run's networks."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((5,), 3.0, dtype=torch.float64))
        self.head = nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x - self.mean)


def test_synflow_begins_with_ones_at_the_first_layer() -> None:
    model = Normalised()
    scores = forgetkit.score(model, batches(2), importance="synflow")
    weight, bias = model.head.weight.detach().abs(), model.head.bias.detach().abs()
    total = weight.sum() + bias.sum()
    close(scores, {"head.weight": weight / total, "head.bias": bias / total})


def test_synflow_takes_its_hooks_off() -> None:
    model = convnet()
    left: list[bool] = []

    @dataclass(frozen=True)
    class Looks:
        """SynFlow, and a look at what it leaves before the host does."""

        def score(self, probe: Probe) -> Mapping[str, Tensor]:
            scores = Synflow().score(probe)
            left.extend(bool(m._forward_hooks or m._forward_pre_hooks) for m in model.modules())
            return scores

    forgetkit.score(model, batches(2, shape=IMAGES), importance=Looks())
    assert left
    assert not any(left)


def removed_in_rounds(model: nn.Sequential, rounds: int, keep: float) -> Tensor:
    """Which entries of two linear layers are left, by the formula, in a loop."""
    first, second = (layer.weight.detach().abs() for layer in model[::2])
    left = torch.ones(first.numel() + second.numel(), dtype=torch.bool)
    for number in range(1, rounds + 1):
        a = first * left[: first.numel()].view(first.shape)
        b = second * left[first.numel() :].view(second.shape)
        flow = torch.cat([(a * b.sum(0)[:, None]).flatten(), (b * a.sum(1)).flatten()])
        flow[~left] = -1
        count = round(len(left) * keep ** (number / rounds))
        left = torch.zeros_like(left)
        left[flow.argsort(descending=True)[:count]] = True
    return left


@pytest.mark.parametrize(("rounds", "keep"), [(2, 0.5), (7, 0.5), (7, 0.4), (30, 0.6)])
def test_synflow_in_rounds(rounds: int, keep: float) -> None:
    model, data = chain(5, 3, 20).double(), batches(2)  # few units, so that none is left with a single way through
    scores = forgetkit.score(model, data, importance=f"synflow:rounds={rounds},keep={keep}")
    left = removed_in_rounds(model, rounds, keep)
    gone = len(left) - int(left.sum())
    assert flat(scores).sort().values.tolist() == list(range(len(left)))
    assert torch.equal(flat(scores) >= gone, left)
    once = flat(forgetkit.score(model, data, importance="synflow"))
    if rounds > 2:
        assert not torch.equal(once >= once.sort().values[gone], left)


def test_synflow_knows_which_options_fit() -> None:
    with pytest.raises(OptionError, match="would be ignored in a single round"):
        Synflow(keep=0.5)
    with pytest.raises(OptionError, match="need the fraction that remains"):
        Synflow(rounds=3)


def test_wanda_of_a_matrix_that_two_layers_share() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.ReLU(), nn.Linear(5, 5, bias=False), nn.Linear(5, 3)).double()
    model[2].weight = model[0].weight
    data = batches(4, 2)
    scores = forgetkit.score(model, data, importance="wanda:compare=raw")
    inputs, _ = together(data)
    both = torch.cat([inputs, model[0](inputs).relu().detach()])
    close(scores["0.weight"], model[0].weight.detach().abs() * both.norm(dim=0))
