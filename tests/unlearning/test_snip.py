"""SNIP is the derivative that the paper's equation 2 says it is, taken by finite differences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from helpers.unlearning_networks import CLASSES, concatenate, convnet, images, mlp, refused, vectors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.testing import assert_close

import forgetkit
from forgetkit.errors import OptionError
from forgetkit.unlearning import Scoring

STEP = 1e-5
Loss = Callable[[Tensor, Tensor], Tensor]


def sensitivity(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss = cross_entropy, training: bool = False
) -> Mapping[str, Tensor]:
    """|dL(c * theta) / dc| at c = 1, for the mean loss L over all samples: central differences in float64."""
    model = copy.deepcopy(model).double().train(training)
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
    expected = sensitivity(model, *concatenate(batches))
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
    inputs, targets = concatenate(batches)
    expected = sensitivity(model, inputs[:samples], targets[:samples])
    check(forgetkit.score(model, batches, importance=f"snip:samples={samples}"), expected)


@pytest.mark.parametrize(("share", "samples"), [(0.5, 4), (0.99, 8), (0.12, 1), (0.01, 1), (1e-9, 1)])
def test_a_share_of_the_samples_on_offer(share, samples):
    """Rounded down, and one at least; they are counted first, also where they can be read only once."""
    model, batches = convnet().double(), images(5, 3, 1, dtype=torch.float64)
    inputs, targets = concatenate(batches)
    expected = sensitivity(model, inputs[:samples], targets[:samples])
    for given in (batches, iter(batches)):
        check(forgetkit.score(model, given, importance=f"snip:samples={share}"), expected)
    for everything in ("none", 9, 10):
        check(
            forgetkit.score(model, batches, importance=f"snip:samples={everything}"),
            sensitivity(model, inputs, targets),
        )


@pytest.mark.slow
def test_the_mean_of_absolute_gradients():
    """Over batches, each counted by its size, the last as far as it is asked for; or over samples, one by one."""
    model, batches = convnet().double(), images(5, 3, 1, dtype=torch.float64)
    inputs, targets = concatenate(batches)
    for samples in (9, 7):
        cuts = [(0, 5), (5, min(8, samples)), (8, samples)]
        parts = [(b - a, sensitivity(model, inputs[a:b], targets[a:b])) for a, b in cuts if a < b]
        mean_abs = {name: sum(n * part[name] for n, part in parts) / samples for name in parts[0][1]}
        check(forgetkit.score(model, batches, importance=f"snip:samples={samples},reduce=mean-abs"), mean_abs)
        ones = [sensitivity(model, inputs[at : at + 1], targets[at : at + 1]) for at in range(samples)]
        per_sample = {name: sum(one[name] for one in ones) / samples for name in mean_abs}
        check(forgetkit.score(model, batches, importance=f"snip:samples={samples},reduce=per-sample"), per_sample)
        whole = sensitivity(model, inputs[:samples], targets[:samples])
        for a, b in ((mean_abs, per_sample), (mean_abs, whole)):  # the test can tell them apart
            with pytest.raises(AssertionError):
                check(a, b)


def test_of_one_batch_and_of_single_samples_the_reductions_agree():
    model, batches = convnet().double(), images(7, dtype=torch.float64)
    one = forgetkit.score(model, batches, importance="snip")
    check(forgetkit.score(model, batches, importance="snip:reduce=mean-abs"), one)
    singles = [(x[None], y[None]) for x, y in zip(*batches[0], strict=True)]
    check(
        forgetkit.score(model, singles, importance="snip:reduce=mean-abs"),
        forgetkit.score(model, batches, importance="snip:reduce=per-sample"),
    )


def test_in_training_mode_each_batch_has_its_own_statistics():
    model, batches = convnet().double().eval(), images(5, 3, dtype=torch.float64)
    scoring = Scoring(mode="train")
    parts = [(len(y), sensitivity(model, x, y, training=True)) for x, y in batches]
    mean_abs = {name: sum(n * part[name] for n, part in parts) / 8 for name in parts[0][1]}
    check(forgetkit.score(model, batches, importance="snip:reduce=mean-abs", scoring=scoring), mean_abs)
    check(forgetkit.score(model, batches[:1], importance="snip", scoring=scoring), parts[0][1])
    before = sensitivity(model, *batches[0])
    with pytest.raises(AssertionError):
        check(parts[0][1], before)
    # A filter's length is nothing to the loss behind batch statistics: along it the gradient is zero.
    x, y = batches[0]
    model.train()
    gradient = torch.autograd.grad(cross_entropy(model(x), y), model[0].weight)[0]
    along = (gradient * model[0].weight.detach()).sum((1, 2, 3)).abs()
    assert float(along.max()) < 1e-4 * float((gradient * model[0].weight.detach()).abs().max())


@pytest.mark.parametrize(
    "importance", ["snip:reduce=per-sample", "fisher", "fisher:variant=sampled", "fisher:variant=exact"]
)
def test_single_samples_need_a_batch_of_their_own(importance):
    with refused(OptionError, match="score-mode=eval: in training mode batch normalisation mixes"):
        forgetkit.score(convnet(), images(5), importance=importance, scoring=Scoring(mode="train"))
    assert set(forgetkit.score(mlp(6), vectors(5), importance=importance, scoring=Scoring(mode="train")))


@pytest.mark.parametrize("importance", ["snip:reduce=per-sample", "fisher"])
def test_single_samples_under_dropout_draw_each_its_own(importance):
    """In training mode, from the seed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, CLASSES))
    one, same, other = (
        forgetkit.score(model, vectors(6), importance=importance, seed=seed, scoring=Scoring(mode="train"))
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["2.weight"], other["2.weight"])
    assert (one["2.weight"] > 0).sum() > 0.9 * one["2.weight"].numel()  # a unit dropped for all would score zero


def test_in_float32_and_for_half_precision_as_well_as_there():
    model, batches = convnet(dtype=torch.bfloat16), images(5, 3, 1)
    expected = sensitivity(model, *concatenate(batches))
    scores = forgetkit.score(model, batches, importance="snip")
    assert {score.dtype for score in scores.values()} == {torch.float32}
    check(scores, expected, rtol=1e-3, atol=1e-6)


def test_another_loss():
    model = mlp(6).double()
    inputs, _ = concatenate(vectors(4, 3))
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
