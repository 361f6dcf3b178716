"""forgetkit.unlearn, score and select, as anybody calls them from a loop of their own."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.unlearning_networks import (
    CLASSES,
    Batch,
    changed,
    concatenate,
    convnet,
    images,
    mlp,
    refused,
    same_bits,
    values,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import forgetkit
from forgetkit.builtin.importance.random import Random
from forgetkit.builtin.importance.snip import Snip
from forgetkit.builtin.reinit.masked import Masked
from forgetkit.contracts import Probe
from forgetkit.errors import ForgetkitError, OptionError


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


def test_the_documented_calls():
    model, batches = convnet(), images(6, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    report = forgetkit.unlearn(
        model, batches, importance="snip", reinit="masked:fraction=0.2", optimizer=optimizer, seed=0
    )
    assert report.reset == report.scored * 2 // 10
    scores = forgetkit.score(model, batches, importance="snip:samples=128", seed=0)
    assert set(scores) == {name for name, _ in model.named_parameters()}
    masks = forgetkit.select(scores, fraction=0.2, seed=0)
    assert {mask.dtype for mask in masks.values()} == {torch.bool}
    assert sum(int(mask.sum()) for mask in masks.values()) == report.scored * 2 // 10


def test_defaults():
    """SNIP where scores are needed, masked, seed 0, cross entropy."""
    one, two = convnet(), convnet()
    forgetkit.unlearn(one, images(6))
    forgetkit.unlearn(
        two, images(6), importance="snip:samples=1024", reinit="masked:fraction=0.2", seed=0, loss=cross_entropy
    )
    assert same(values(one), values(two))
    assert same(forgetkit.score(one, images(6)), forgetkit.score(one, images(6), importance="snip", seed=0))


@pytest.mark.parametrize("importance", ["snip", "fisher:variant=sampled", "magnitude", "random"])
def test_unlearn_resets_what_score_and_select_say(importance):
    model, batches = convnet(), images(6, 3)
    scores = forgetkit.score(model, batches, importance=importance, seed=9)
    masks = forgetkit.select(scores, fraction=0.3, seed=9)
    before = values(model)
    report = forgetkit.unlearn(model, batches, importance=importance, reinit="masked:fraction=0.3", seed=9)
    differ = changed(model, before)
    assert all(torch.equal(differ.get(name, torch.zeros_like(mask)), mask) for name, mask in masks.items())
    assert report.threshold == max(float(scores[name][mask].max()) for name, mask in masks.items() if mask.any())


@pytest.mark.parametrize(
    ("text", "component"),
    [
        ("snip:samples=5", Snip(samples=5)),
        ("snip:5", Snip(samples=5)),
        ("random", Random()),
        ("forgetkit/snip", Snip()),
    ],
)
def test_a_spec_or_an_object(text, component):
    model, batches = convnet(), images(6, 6)
    one, two = (forgetkit.score(model, batches, importance=it, seed=1) for it in (text, component))
    assert same(one, two)
    twin = convnet()
    forgetkit.unlearn(model, batches, importance=text, reinit="masked:0.4", seed=1)
    forgetkit.unlearn(twin, batches, importance=component, reinit=Masked(fraction=0.4), seed=1)
    assert same(values(model), values(twin))


@dataclasses.dataclass(frozen=True)
class GradNorm:
    """Mean absolute gradient: the criterion of twenty lines that the documentation shows."""

    samples: int = 128

    def score(self, probe: Probe) -> dict[str, Tensor]:
        total = probe.zeros()
        for inputs, targets in probe.batches(self.samples):
            for name, grad in probe.grads(inputs, targets).items():
                total[name] += grad.abs()
        return total


def test_a_custom_criterion():
    model, batches = convnet().eval(), images(6, 6)
    scores = forgetkit.score(model, batches, importance=GradNorm(samples=6))
    cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(scores[name], parameter.grad.abs(), rtol=1e-4, atol=1e-7)
    assert forgetkit.unlearn(model, batches, importance=GradNorm()).reset == 15


@pytest.mark.parametrize(
    "make", [iter, lambda b: (batch for batch in b), lambda b: zip(*zip(*b, strict=True), strict=True)]
)
@pytest.mark.parametrize("importance", ["snip", "fisher", "snip:samples=7", "random"])
def test_batches_that_can_be_read_only_once(importance, make):
    """Each batch counts once, those that were looked at first, too; no more are read than are wanted."""
    model, batches = convnet(), images(5, 4, 3)
    expected = forgetkit.score(model, batches, importance=importance, seed=1)
    assert same(forgetkit.score(model, make(batches), importance=importance, seed=1), expected)
    twin = convnet()
    forgetkit.unlearn(model, batches, importance=importance, seed=1)
    forgetkit.unlearn(twin, make(batches), importance=importance, seed=1)
    assert same(values(model), values(twin))


@pytest.mark.parametrize(
    ("importance", "read"), [("snip", 3), ("snip:samples=5", 1), ("snip:samples=6", 2), ("random", 1)]
)
def test_no_more_is_read_than_is_wanted(importance, read):
    pulled = []

    def stream() -> Iterator[Batch]:
        for batch in images(5, 4, 3):
            pulled.append(len(batch[1]))
            yield batch

    forgetkit.unlearn(convnet(), stream(), importance=importance)
    assert pulled == [5, 4, 3][:read]


def test_a_stream_without_an_end():
    def stream() -> Iterator[Batch]:
        while True:
            yield images(4)[0]

    report = forgetkit.unlearn(convnet(), stream(), importance="snip:samples=10")
    assert report.reset == report.scored * 2 // 10


def test_without_batches():
    """A criterion that needs no data does without, and so does forgetting; one that needs some says so."""
    model = convnet()
    for importance in ("magnitude", "random"):
        assert forgetkit.unlearn(model, importance=importance).reset == 15
    magnitude = forgetkit.score(model, importance="magnitude")
    assert all(torch.equal(magnitude[name], p.detach().abs()) for name, p in model.named_parameters())
    for importance in ("snip", "fisher", "fisher:variant=exact"):
        with refused(OptionError, match="batches", unchanged=model):
            forgetkit.unlearn(model, importance=importance)
        with refused(OptionError, match="batches", unchanged=model):
            forgetkit.score(model, importance=importance)
    with refused(OptionError, match="batches", unchanged=model):
        forgetkit.unlearn(model)


@pytest.mark.parametrize("batches", [[], iter(()), [(torch.zeros(0, 2, 5, 5), torch.zeros(0, dtype=torch.int64))]])
@pytest.mark.parametrize("reinit", ["masked", "cold", "rifle"])
def test_batches_with_nothing_in_them(reinit, batches):
    with refused(OptionError, match="empty"):
        forgetkit.unlearn(convnet(), batches, reinit=reinit)


@pytest.mark.parametrize(
    "batches",
    [
        [torch.zeros(2, 5)],
        [(torch.zeros(2, 5),)],
        [({"x": torch.zeros(2, 5)}, torch.zeros(2))],
        [{"x": 1, "y": 2}],
        [3],
    ],
    ids=["a tensor", "one", "a dictionary", "a dictionary of two", "a number"],
)
def test_batches_of_something_else(batches):
    with refused(OptionError, match="batch"):
        forgetkit.score(mlp(), batches)


def test_a_loss_that_is_no_mean():
    with refused(OptionError, match="loss"):
        forgetkit.score(
            convnet(), images(4), loss=lambda outputs, labels: cross_entropy(outputs, labels, reduction="none")
        )


def test_a_seed_is_a_whole_number():
    one, two = (forgetkit.score(convnet(), importance="random", seed=seed) for seed in (3, np.int64(3)))
    assert same(one, two)
    with pytest.raises(OptionError, match="seed"):
        forgetkit.score(convnet(), importance="random", seed=0.5)


def test_an_empty_batch_among_others():
    model = convnet()
    nothing = (torch.zeros(0, 2, 5, 5), torch.zeros(0, dtype=torch.int64))
    one, two = images(3, 2)
    scores = forgetkit.score(model, [nothing, one, nothing, two, nothing])
    assert same(scores, forgetkit.score(model, [one, two]))


@pytest.mark.parametrize("reinit", ["cold", "llf", "rifle", "shrink-perturb", "none"])
def test_a_criterion_that_nobody_would_look_at(reinit):
    model = convnet()
    with refused(OptionError, match="importance", unchanged=model):
        forgetkit.unlearn(model, images(4), importance="snip", reinit=reinit)


@pytest.mark.parametrize(
    "given",
    [
        {"importance": "snap"},
        {"importance": "snip:samples=0"},
        {"importance": "snip:sample=3"},
        {"importance": "fisher:variant=full"},
        {"importance": Snip(samples=-1)},
        {"reinit": "masked:fraction=2"},
        {"reinit": Masked(fraction=-0.1)},
        pytest.param({"importance": object()}, id="an object"),
    ],
    ids=str,
)
def test_a_wrong_option(given):
    with refused(OptionError) as caught:
        forgetkit.unlearn(convnet(), images(4), **given)
    assert isinstance(caught.value, ForgetkitError)


def test_a_regression():
    """Under another loss; the targets are floats, and no entry is left without a score."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))
    batches = [(torch.randn(n, 5), torch.randn(n, 1)) for n in (6, 2)]
    inputs, targets = concatenate(batches)
    loss = mse_loss(model(inputs), targets)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    scores = forgetkit.score(model, batches, importance="snip", loss=mse_loss)
    for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True):
        torch.testing.assert_close(scores[name], (parameter.detach() * grad).abs())
    singles = [
        torch.autograd.grad(mse_loss(model(x[None]), y[None]), list(model.parameters()))
        for x, y in zip(inputs, targets, strict=True)
    ]
    fisher = forgetkit.score(model, batches, importance="fisher", loss=mse_loss)
    for at, name in enumerate(fisher):
        torch.testing.assert_close(fisher[name], sum(single[at] ** 2 for single in singles) / 8)
    report = forgetkit.unlearn(model, batches, loss=mse_loss)
    assert (report.scored, report.reset) == (43, 8)


def test_integer_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, CLASSES))
    words, labels = torch.randint(9, (6, 4)), torch.randint(CLASSES, (6,))
    for importance in ("snip", "fisher", "fisher:variant=exact", "random", "magnitude"):
        assert forgetkit.unlearn(model, [(words, labels)], importance=importance).scored == 79


SPECS = [
    {"importance": "snip"},
    {"importance": "random", "reinit": "masked:fraction=1"},
    {"reinit": "cold"},
    {"reinit": "llf"},
    {"reinit": "rifle"},
    {"reinit": "shrink-perturb"},
    {"reinit": "none"},
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_numbers_of_the_report_add_up(spec):
    model, batches = convnet(), images(6, 6)
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    optimizer.step()
    before = values(model)
    report = forgetkit.unlearn(model, batches, optimizer=optimizer, **spec)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    differ = {name: int(where.sum()) for name, where in changed(model, before).items()}
    assert report.reset == sum(layer.reset for layer in report.layers.values())
    assert all(layer.size == sizes[name] and 0 <= layer.reset <= layer.size for name, layer in report.layers.items())
    assert all(count <= report.layers[name].reset for name, count in differ.items() if name in sizes)
    assert {name for name in differ if name not in sizes} <= set(report.buffers)
    assert report.optimizer_cleared == 2 * report.reset
    assert report.left_out == {"0.bias": "frozen"}
    assert report.seconds > 0
    if "importance" in spec:
        assert report.scored == sum(sizes.values()) - sizes["0.bias"] == sum(la.size for la in report.layers.values())
        assert report.threshold is not None
    else:
        assert (report.scored, report.threshold) == (0, None)
    if spec["importance" if "importance" in spec else "reinit"] == "snip":
        assert {name: layer.reset for name, layer in report.layers.items() if layer.reset} == differ
    content = report.as_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["layers"] == {n: {"size": la.size, "reset": la.reset} for n, la in report.layers.items()}
    assert content["reset"] == report.reset


def test_one_seed_one_result():
    results = []
    for seed, state in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(state)
        random.seed(state)
        model = convnet()
        loader = DataLoader(TensorDataset(*concatenate(images(20, 20))), batch_size=8, shuffle=True)
        forgetkit.unlearn(model, loader, importance="fisher:variant=sampled,samples=16", seed=seed)
        results.append(values(model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any, epochs: int) -> float:
    """Train, and return the mean loss of the last epoch."""
    for _ in range(epochs):
        losses = []
        for inputs, labels in batches:
            optimizer.zero_grad()
            loss = cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.Adam(p, lr=0.02, amsgrad=True),
], ids=["sgd", "adam"])  # fmt: skip
def test_a_loop_of_one_s_own_learns_again_after_each_forgetting(make):
    torch.manual_seed(0)
    inputs = torch.randn(64, 5)
    labels = (inputs @ torch.randn(5, CLASSES)).argmax(1)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=16, shuffle=True)
    model = mlp(24)
    optimizer = make(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
    first = cross_entropy(model(inputs), labels).item()
    for generation in range(3):
        learnt = learn(model, optimizer, loader, 25)
        assert learnt < 0.4 * first
        scheduler.step()
        forgetkit.unlearn(
            model, loader, importance="random", reinit="masked:fraction=0.3", optimizer=optimizer, seed=generation
        )
        assert cross_entropy(model(inputs), labels).item() > 2 * learnt
    assert model.training
