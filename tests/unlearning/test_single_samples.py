"""Gradients of single samples: where vmap fails or differs, one at a time, and the report says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.unlearning_networks import refused
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import forgetkit
from forgetkit.errors import OptionError

GENERATOR = torch.Generator().manual_seed(7)
INPUTS, TARGETS = torch.randn(5, 6, 4, generator=GENERATOR), torch.arange(5) % 3


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class Triple(torch.autograd.Function):
    """Without a rule for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * grad


class Twisted(torch.autograd.Function):
    """With a rule for vmap that is wrong."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]

    @staticmethod
    def vmap(info: Any, dims: Any, x: Tensor) -> Any:
        return Twisted.apply(x.neg()), dims[0]


class Body(nn.Module):
    """A linear network with something in the middle."""

    def __init__(self, middle: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("seen", torch.zeros(5))
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.middle(self, self.first(x.mean(1)).tanh()))


def branches(model: nn.Module, hidden: Tensor) -> Tensor:
    return hidden * 2 if float(hidden.detach().sum()) > 0 else hidden


def counts(model: Any, hidden: Tensor) -> Tensor:
    hidden = hidden + model.seen
    model.seen += hidden.detach().mean(0)
    return hidden


def writes(model: nn.Module, hidden: Tensor) -> Tensor:
    total = torch.zeros(len(hidden), 5)
    total += hidden
    return total


MIDDLES: dict[str, Callable[..., Tensor]] = {
    "a function of its own": lambda _, h: Triple.apply(h),
    "a wrong rule": lambda _, h: Twisted.apply(h),
    "a branch": branches,
    "an item": lambda _, h: h * h.detach().abs().max().item(),
    "a buffer": counts,
    "in place": writes,
    "checkpoint": lambda m, h: checkpoint(torch.sin, h, use_reentrant=True),
    "a mask": lambda _, h: h.flatten()[h.detach().flatten() > -9].view(h.shape),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    **{name: lambda middle=middle: Body(middle) for name, middle in MIDDLES.items()},
}


def built(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


def alone(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The mean square of each sample's gradient, each from a network of its own."""
    squares = []
    for n in range(len(TARGETS)):
        model = built(build)
        F.cross_entropy(model(INPUTS[n : n + 1]), TARGETS[n : n + 1]).backward()
        squares.append({name: p.grad.square() for name, p in model.named_parameters() if p.grad is not None})
    return {name: torch.stack([each[name] for each in squares]).mean(0) for name in squares[0]}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_every_network_has_gradients_of_single_samples(build, caplog):
    found = forgetkit.score(built(build), [(INPUTS[:3], TARGETS[:3]), (INPUTS[3:], TARGETS[3:])], importance="fisher")
    torch.testing.assert_close(found, alone(build), rtol=1e-4, atol=1e-7)
    told = [record.message for record in caplog.records if "cannot be mapped over samples" in record.message]
    assert len(told) == 1
    assert "ran 5 times forward and backward, on one sample each, in place of 2 times" in told[0]
    assert "\n" not in told[0]


def test_a_report_counts_the_passes():
    report = forgetkit.unlearn(
        built(NETWORKS["gru"]), [(INPUTS, TARGETS)], importance="fisher", reinit="masked:fraction=0.2", fresh="module"
    )
    assert (report.forward_passes, report.backward_passes) == (5, 5)
    assert sum("cannot be mapped" in remark for remark in report.remarks) == 1


def test_networks_that_can_be_mapped_are_not_told_of(caplog):
    forgetkit.score(built(lambda: Body(lambda _, h: h)), [(INPUTS, TARGETS)], importance="fisher")
    drops = built(lambda: Body(lambda m, h: F.dropout(h, 0.5, m.training)))
    forgetkit.score(drops, [(INPUTS, TARGETS)], importance="fisher", scoring=forgetkit.Scoring(mode="train"))
    assert not caplog.records


def test_statistics_of_the_batch_are_refused():
    inputs = INPUTS.mean(1)
    tracking = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    for model, mode, match in (
        (tracking, "train", "score-mode=eval"),
        (
            nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)),
            "eval",
            "'1' norm",
        ),
    ):
        with refused(OptionError, match=match, unchanged=model):
            forgetkit.score(model, [(inputs, TARGETS)], importance="fisher", scoring=forgetkit.Scoring(mode=mode))
    forgetkit.score(tracking, [(inputs, TARGETS)], importance="fisher")


def test_an_error_of_the_network_is_told_as_without_vmap():
    model = built(NETWORKS["gru"])
    with refused(OptionError, match=r"the loss cannot take outputs \(\d, 3\)"):
        forgetkit.score(model, [(INPUTS, TARGETS.float())], importance="fisher")
