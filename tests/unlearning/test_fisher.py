"""The diagonal of the Fisher information, against a loop over samples that knows nothing of the probe."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from helpers.unlearning_networks import CLASSES, concatenate, convnet, images, mlp, vectors
from scipy.stats import chi2
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import forgetkit
from forgetkit.builtin.importance.fisher import Fisher
from forgetkit.seeding import Seeds
from forgetkit.unlearning import probe as probing
from forgetkit.unlearning.probe import GuardedProbe, ReplayableBatches

Squares = dict[str, Tensor]
UNLIKELY = 1e-6


def squares(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Squares:
    """The squared gradient of one number, by name, in float64."""
    model = copy.deepcopy(model).double().eval()
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(loss(model), list(parameters.values()))
    return {name: grad**2 for name, grad in zip(parameters, grads, strict=True)}


def mean(parts: list[tuple[float | Tensor, Squares]], count: int) -> Squares:
    """The weighted sum of ``parts`` over ``count``."""
    return {name: sum(weight * part[name] for weight, part in parts) / count for name in parts[0][1]}


def empirical(model: nn.Module, inputs: Tensor, labels: Tensor) -> Squares:
    inputs = inputs.double()
    ones = [
        (1.0, squares(model, lambda m, n=n: cross_entropy(m(inputs[n : n + 1]), labels[n : n + 1])))
        for n in range(len(labels))
    ]
    return mean(ones, len(labels))


def exact(model: nn.Module, inputs: Tensor) -> Squares:
    inputs = inputs.double()
    with torch.no_grad():
        probability = copy.deepcopy(model).double().eval()(inputs).softmax(1)
    parts = [
        (probability[n, c], squares(model, lambda m, n=n, c=c: -m(inputs[n : n + 1]).log_softmax(1)[0, c]))
        for n in range(len(inputs))
        for c in range(CLASSES)
    ]
    return mean(parts, len(inputs))


def check(scores: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-9) -> None:
    assert scores.keys() == expected.keys()
    for name, score in scores.items():
        assert_close(score.double(), expected[name], rtol=rtol, atol=1e-13, msg=lambda text, n=name: f"{n}: {text}")


def differ(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(not torch.allclose(a[name].double(), b[name], rtol=0.01) for name in a)


@pytest.fixture(params=["eval", "train"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    return convnet(dtype=torch.float64).train(request.param == "train")


BATCHES = images(5, 3, 1, dtype=torch.float64)


def test_empirical(model):
    expected = empirical(model, *concatenate(BATCHES))
    check(forgetkit.score(model, BATCHES, importance="fisher"), expected)
    check(forgetkit.score(model, BATCHES, importance="fisher:variant=empirical"), expected)
    inputs, labels = concatenate(BATCHES)
    check(forgetkit.score(model, BATCHES, importance="fisher:samples=6"), empirical(model, inputs[:6], labels[:6]))


def test_exact(model):
    expected = exact(model, concatenate(BATCHES)[0])
    scores = forgetkit.score(model, BATCHES, importance="fisher:variant=exact")
    check(scores, expected)
    assert differ(scores, empirical(model, *concatenate(BATCHES)))


def test_batch(model):
    parts = [
        (float(len(labels)), squares(model, lambda m, x=inputs, y=labels: cross_entropy(m(x), y)))
        for inputs, labels in BATCHES
    ]
    scores = forgetkit.score(model, BATCHES, importance="fisher:variant=batch")
    check(scores, mean(parts, 9))
    assert differ(scores, empirical(model, *concatenate(BATCHES)))


class Listening(GuardedProbe):
    """Remembers the labels that gradients were asked for."""

    labels: list[Tensor]

    def sample_grads(self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Iterator[dict[str, Any]]:
        self.labels = [*getattr(self, "labels", []), targets]
        return super().sample_grads(inputs, targets, weights)


def listening(model: nn.Module, batches: Any, seed: int) -> Listening:
    names = [name for name, _ in model.named_parameters()]
    return Listening(model.eval(), ReplayableBatches(batches), names, cross_entropy, Seeds(seed))


def test_sampled_for_the_labels_that_it_drew():
    model = convnet(dtype=torch.float64)
    probe = listening(model, BATCHES, seed=3)
    scores = Fisher(variant="sampled").score(probe)
    drawn = torch.cat(probe.labels)
    check(scores, empirical(model, concatenate(BATCHES)[0], drawn))
    assert len(set(drawn.tolist())) > 1
    assert not torch.equal(drawn, concatenate(BATCHES)[1])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = listening(model, BATCHES, seed=3)
    Fisher(variant="sampled").score(again)
    assert torch.equal(torch.cat(again.labels), drawn)
    assert torch.equal(torch.get_rng_state(), state)


def test_sampled_labels_follow_the_prediction():
    model, (inputs, labels) = mlp(seed=1), vectors(1)[0]
    with torch.no_grad():
        probability = model(inputs).softmax(1)[0].double()
    draws = 4000
    probe = listening(model, [(inputs.expand(draws, -1), labels.expand(draws))], seed=0)
    Fisher(variant="sampled", samples=draws).score(probe)
    counts = torch.cat(probe.labels).bincount(minlength=CLASSES).double()
    statistic = float(((counts - draws * probability) ** 2 / (draws * probability)).sum())
    assert statistic < chi2.isf(UNLIKELY, CLASSES - 1)
    uniform = float(((counts - draws / CLASSES) ** 2 / (draws / CLASSES)).sum())
    assert uniform > chi2.isf(UNLIKELY, CLASSES - 1)


def test_sampled_is_exact_in_expectation():
    """Each sample repeated many times: the mean over the draws comes near to the sum over the classes."""
    model, repeats = convnet(dtype=torch.float64), 1500
    inputs, labels = images(3, dtype=torch.float64)[0]
    many = [(inputs.repeat(repeats, 1, 1, 1), labels.repeat(repeats))]
    scores = forgetkit.score(model, many, importance=f"fisher:variant=sampled,samples={3 * repeats}")
    expected = exact(model, inputs)
    for name, score in scores.items():
        assert_close(score, expected[name], rtol=0.2, atol=0.05 * float(expected[name].mean()))
    assert differ(empirical(model, inputs, labels), expected)


@pytest.mark.parametrize("variant", ["empirical", "sampled", "exact"])
def test_chunks_change_nothing(variant, monkeypatch):
    model = convnet(dtype=torch.float64)
    whole = forgetkit.score(model, BATCHES, importance=f"fisher:variant={variant}", seed=2)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    monkeypatch.setattr(probing, "_SAMPLE_GRADS_BYTES", 2 * size)
    chunks = [len(chunk["0.weight"]) for chunk in listening(model, BATCHES, 0).sample_grads(*BATCHES[0])]
    assert chunks == [2, 2, 1]
    check(forgetkit.score(model, BATCHES, importance=f"fisher:variant={variant}", seed=2), whole)
    monkeypatch.setattr(probing, "_SAMPLE_GRADS_BYTES", 1)  # less than one sample takes: one at a time all the same
    check(forgetkit.score(model, BATCHES, importance=f"fisher:variant={variant}", seed=2), whole)


@pytest.mark.parametrize("variant", ["empirical", "exact", "batch"])
def test_how_samples_are_batched_changes_nothing_but_for_batch(variant):
    model, (inputs, labels) = convnet(dtype=torch.float64), concatenate(BATCHES)
    pieces = list(zip(inputs.split(2), labels.split(2), strict=True))
    one = forgetkit.score(model, [(inputs, labels)], importance=f"fisher:variant={variant}")
    two = forgetkit.score(model, pieces, importance=f"fisher:variant={variant}")
    if variant == "batch":
        assert differ(one, two)
    else:
        check(one, two)


def test_attention():
    """Per sample, too, and without the fast path that inference takes."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dropout=0.5)
    model = nn.Sequential(nn.Unflatten(1, (3, 6)), layer, nn.Flatten(), nn.Linear(18, CLASSES)).double()
    batches = [(inputs.double(), labels) for inputs, labels in vectors(3, 2, width=18)]
    check(forgetkit.score(model, batches, importance="fisher"), empirical(model, *concatenate(batches)))
    scores = forgetkit.score(model, batches, importance="fisher:variant=exact")
    check(scores, exact(model, concatenate(batches)[0]))


def test_half_precision_is_scored_in_float32():
    model = convnet(dtype=torch.bfloat16)
    scores = forgetkit.score(model, images(5, 3, 1), importance="fisher")
    assert {score.dtype for score in scores.values()} == {torch.float32}
    check(scores, empirical(model, *concatenate(BATCHES)), rtol=1e-3)
