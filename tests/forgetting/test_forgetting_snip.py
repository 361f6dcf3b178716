"""SNIP is the derivative that the paper's equation 2 says it is, taken by finite differences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from forgetting_nets import CLASSES, convnet, images, mlp, together, vectors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.testing import assert_close

import forgetkit

STEP = 1e-5
Loss = Callable[[Tensor, Tensor], Tensor]


def sensitivity(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss = cross_entropy) -> Mapping[str, Tensor]:
    """|dL(c * theta) / dc| at c = 1, for the mean loss L over all samples: central differences in float64."""
    model = copy.deepcopy(model).double().eval()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    slopes = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            slope = torch.empty_like(parameter)
            for at in range(parameter.numel()):
                entry = parameter.view(-1)[at]
                old = entry.clone()
                ends = []
                for c in (1 + STEP, 1 - STEP):
                    entry.copy_(c * old)
                    ends.append(loss(model(inputs), targets))
                entry.copy_(old)
                slope.view(-1)[at] = (ends[0] - ends[1]) / (2 * STEP)
            slopes[name] = slope.abs()
    return slopes


def check(scores: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-5, atol: float = 1e-8) -> None:
    assert scores.keys() == expected.keys()
    for name, score in scores.items():
        assert_close(score.double(), expected[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def test_the_mean_loss_over_batches_of_unequal_size():
    model, batches = convnet().double(), images(5, 3, 1, dtype=torch.float64)
    expected = sensitivity(model, *together(batches))
    check(forgetkit.score(model, batches, importance="snip"), expected)
    # A mean of batch means, or of magnitudes, is something else: the test can tell.
    parts = [sensitivity(model, *batch) for batch in batches]
    for wrong in (
        {name: sum(part[name] for part in parts) / 3 for name in expected},
        {name: sum(n * part[name] for n, part in zip((5, 3, 1), parts, strict=True)) / 9 for name in expected},
    ):
        with pytest.raises(AssertionError):
            check(wrong, expected)


def test_batch_normalisation_uses_its_running_statistics():
    """Of a model in train mode, too."""
    model, batches = convnet().double().train(), images(7, dtype=torch.float64)
    check(forgetkit.score(model, batches, importance="snip"), sensitivity(model, *batches[0]))


@pytest.mark.parametrize("samples", [1, 5, 6, 8, 100])
def test_no_more_samples_than_asked_for(samples):
    model, batches = convnet().double(), images(5, 3, 1, dtype=torch.float64)
    inputs, targets = together(batches)
    expected = sensitivity(model, inputs[:samples], targets[:samples])
    check(forgetkit.score(model, batches, importance=f"snip:samples={samples}"), expected)


def test_in_float32_and_for_half_precision_as_well_as_there():
    model, batches = convnet(dtype=torch.bfloat16), images(5, 3, 1)
    expected = sensitivity(model, *together(batches))
    scores = forgetkit.score(model, batches, importance="snip")
    assert {score.dtype for score in scores.values()} == {torch.float32}
    check(scores, expected, rtol=1e-3, atol=1e-6)


def test_another_loss():
    model = mlp(6).double()
    inputs, _ = together(vectors(4, 3))
    targets = torch.randn(7, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batches = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
    expected = sensitivity(model, inputs, targets, mse_loss)
    check(forgetkit.score(model, batches, importance="snip", loss=mse_loss), expected)


class Tied(nn.Module):
    """One table, to read with and to write with."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 3)
        self.out = nn.Linear(3, 6)
        self.out.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.table(words).tanh().mean(1))


def test_a_tied_weight_has_one_score_for_all_its_uses():
    torch.manual_seed(0)
    model = Tied().double()
    words, targets = torch.randint(6, (9, 3)), torch.randint(6, (9,))
    scores = forgetkit.score(model, [(words, targets)], importance="snip")
    assert set(scores) == {"table.weight", "out.bias"}
    check(scores, sensitivity(model, words, targets))
