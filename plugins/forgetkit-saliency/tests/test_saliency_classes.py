"""Criteria that bring labels or a loss of their own refuse what is no classification, and scores that are all equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forgetkit_saliency import FisherObd, Gradient, Grasp, Hessian, SnipSample, Taylor, Wanda
from torch import Tensor, nn
from torch.nn import functional as F

import forgetkit
from forgetkit.contracts import Importance
from forgetkit.errors import ComponentError, OptionError

INPUTS = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.linspace(-1, 1, 8)


def net(outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs))


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.float().view(len(targets), -1)).square().mean()


CRITERIA: dict[str, tuple[Importance, str]] = {
    "exact": (FisherObd(variant="exact"), "use variant=empirical"),
    "sampled": (FisherObd(variant="sampled"), "use variant=empirical"),
    "grasp": (Grasp(), "use temperature=none"),
}
TARGETS: dict[str, tuple[int, Tensor]] = {
    "one number": (1, NUMBERS),
    "numbers of two outputs": (2, torch.stack([NUMBERS, 2 * NUMBERS], 1)),
    "two outputs for one number": (2, NUMBERS),
    "counts": (2, torch.arange(8)),
    "a column": (2, torch.zeros(8, 1).long()),
}


@pytest.mark.parametrize(("criterion", "remedy"), CRITERIA.values(), ids=CRITERIA)
@pytest.mark.parametrize(("outputs", "targets"), TARGETS.values(), ids=TARGETS)
def test_a_regression_is_refused_with_the_remedy(criterion, remedy, outputs, targets):
    options: dict[str, Any] = {"loss": loss_of}
    with pytest.raises(OptionError, match=remedy):
        forgetkit.score(net(outputs), [(INPUTS, targets)], importance=criterion, **options)
    for other in (FisherObd(), Grasp(temperature=None)):
        scores = forgetkit.score(net(outputs), [(INPUTS, targets)], importance=other, **options)
        assert sum(int(score.count_nonzero()) for score in scores.values()) > 0


def test_grasp_takes_probabilities():
    labels = torch.arange(8) % 3
    hard = forgetkit.score(net(3), [(INPUTS, labels)], importance=Grasp())
    soft = forgetkit.score(net(3), [(INPUTS, F.one_hot(labels, 3).float())], importance=Grasp())
    assert all(torch.allclose(hard[name], soft[name]) for name in hard)


@pytest.mark.parametrize(
    "criterion", [FisherObd(), Grasp(temperature=None), Gradient(), Hessian(), SnipSample(), Taylor("filter")], ids=repr
)
def test_a_loss_without_effect_is_refused(criterion):
    def nothing(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0 * loss_of(outputs, targets)

    with pytest.raises(ComponentError, match=rf"^{type(criterion).__name__} scores all 47 entries"):
        forgetkit.unlearn(net(2), [(INPUTS, torch.arange(8) % 2)], importance=criterion, loss=nothing)


def test_weights_of_zero_are_refused():
    model = net(2)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(ComponentError, match="Wanda scores all"):
        forgetkit.unlearn(model, [(INPUTS, torch.arange(8) % 2)], importance=Wanda("raw"))


@pytest.mark.parametrize("spec", ["row", "raw"])
def test_inputs_of_nan_have_no_rank(spec):
    inputs = INPUTS.clone()
    inputs[0, 0] = torch.nan
    with pytest.raises(ComponentError, match=r"Wanda: the score of '0.weight' holds NaN"):
        forgetkit.score(net(2), [(inputs, torch.arange(8) % 2)], importance=Wanda(spec))
