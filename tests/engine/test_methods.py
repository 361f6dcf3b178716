"""Every method on every built-in model: it resets what it names, and the network learns again."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit import unlearning
from forgetkit.config import METHODS
from forgetkit.contracts import Inputs, ModelBuilder
from forgetkit.registry import registry
from forgetkit.seeding import Seeds
from forgetkit.training import Normalize

pytestmark = pytest.mark.slow

CLASSES = 4
SIZES = {
    "convnet": 8,
    "mlp": 8,
    "resnet18:width=8": 8,
    "resnet50:width=8": 4,
    "vgg16-bn:width=8": 32,
}
LONG_SIZES = {"resnet18": 8, "resnet34": 4, "resnet50": 4, "wide-resnet50-2": 4, "vgg16-bn": 32}


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(5)
    labels = torch.arange(16) % CLASSES
    images = torch.rand(16, 3, size, size, generator=rng) * 0.5
    for image, label in zip(images, labels, strict=True):
        image[int(label) % 3] += 0.5 if label < 3 else -0.2
    return images, labels


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], steps: int) -> list[float]:
    """The loss before each step."""
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = cross_entropy(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.fixture(scope="module", params=[*SIZES, *(pytest.param(name, marks=pytest.mark.long) for name in LONG_SIZES)])
def trained(request: pytest.FixtureRequest) -> tuple[str, ModelBuilder, nn.Module, tuple[Tensor, Tensor]]:
    size = {**SIZES, **LONG_SIZES}[request.param]
    builder = registry.load().make("models", request.param)[1]
    torch.manual_seed(0)
    inputs = Inputs((3, size, size), CLASSES, (0.4,) * 3, (0.3,) * 3)
    model = builder.build(inputs, Normalize(inputs))
    batch = batch_of(size)
    train(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), batch, 3)
    return request.param, builder, model, batch


@pytest.mark.parametrize("method", sorted(METHODS))
def test_forget_and_learn_again(
    trained: tuple[str, ModelBuilder, nn.Module, tuple[Tensor, Tensor]], method: str
) -> None:
    name, builder, base, batch = trained
    offers = registry.load()
    importance, reinit = METHODS[method]
    model = copy.deepcopy(base)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(model, optimizer, batch, 1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    report = unlearning.unlearn(
        model,
        [batch],
        importance=offers.make("importance", importance)[1] if importance else None,
        reinit=offers.make("reinit", reinit)[1],
        optimizer=optimizer,
        seeds=Seeds(3),
        history=unlearning.ModelHistory(initialise=builder.initialise),
    )
    total = sum(p.numel() for p in model.parameters())
    touched = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    heads = [m for m in model.modules() if isinstance(m, nn.Linear)]
    head = {n for n, p in model.named_parameters() if any(p is q for q in heads[-1].parameters())}
    if method == "warm":
        assert (report.reset, touched) == (0, set())
    elif method == "lure":
        assert (report.scored, report.reset) == (total, total * 2 // 10)
    elif method == "rifle":
        assert set(report.layers) == head
        assert report.reset == sum(p.numel() for p in heads[-1].parameters())
    elif method == "llf":
        weighted = [n for n, p in model.named_parameters() if p.ndim >= 2]
        assert head <= set(report.layers)
        assert weighted[0] not in report.layers
        assert 0 < report.reset < total
        assert all(layer.reset == layer.size for layer in report.layers.values())
    else:
        assert report.reset == total
        assert {n for n, p in before.items() if p.ndim >= 2} <= touched
    losses = train(model, torch.optim.Adam(model.parameters(), lr=1e-3), batch, 8)
    assert losses[-1] < 0.8 * max(losses[0], math.log(CLASSES)), f"{name} does not learn again after {method}"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_learns_the_digits(tmp_path: Path, method: str) -> None:
    options = {"method": method, "mega_batches": 2, "epochs": 3, "threads": 1, "out": str(tmp_path)}
    result = forgetkit.run(options)
    assert result["method"] == method
    assert result["test_accuracy"] > 0.8  # chance is 0.1


@pytest.mark.parametrize("criterion", ["snip", "fisher", "fisher:variant=batch", "magnitude", "random"])
@pytest.mark.parametrize("replay", ["full", "none", "last", "buffer:size=30", "buffer:size=30,rule=per-mega-batch"])
def test_every_criterion_with_every_replay(tmp_path: Path, criterion: str, replay: str) -> None:
    options = {
        "importance": criterion,
        "replay": replay,
        "dataset": "synthetic:samples=200,test=40,classes=4",
        "model": "mlp:width=16",
        "mega_batches": 3,
        "epochs": 2,
        "threads": 1,
        "out": str(tmp_path),
    }
    result = forgetkit.run(options)
    sizes = [n - n // 10 for n in (67, 67, 66)]  # 200 samples in three parts, a tenth of each for validation
    expected = {
        "full": [sum(sizes[: i + 1]) for i in range(3)],
        "none": sizes,
        "last": [sizes[0], sizes[0] + sizes[1], sizes[1] + sizes[2]],
        "buffer:size=30": [sizes[0], sizes[1] + 30, sizes[2] + 30],
        "buffer:size=30,rule=per-mega-batch": [sizes[0], sizes[1] + 30, sizes[2] + 60],
    }[replay]
    assert [row["train_samples"] for row in result["mega_batches"]] == expected
    assert all(row["unlearn"]["reset"] == result["parameters"] * 2 // 10 for row in result["mega_batches"][:-1])


def test_resnet18_has_the_papers_size_and_a_fifth_of_it_is_reset(tmp_path: Path) -> None:
    """Table 10 of the paper: 11,173,962 parameters, of which the sparse model keeps 8,939,169."""
    options = {
        "model": "resnet18",
        "dataset": "synthetic:samples=60,test=20,classes=10,size=8",
        "reinit": "masked:fraction=0.2",
        "mega_batches": 2,
        "epochs": 1,
        "out": str(tmp_path),
    }
    result = forgetkit.run(options)
    unlearned = result["mega_batches"][0]["unlearn"]
    assert result["parameters"] == 11_173_962
    assert unlearned["scored"] == 11_173_962
    assert unlearned["reset"] == 2_234_792 == math.floor(0.2 * 11_173_962)
    assert sum(layer["reset"] for layer in unlearned["layers"].values()) == 2_234_792
    assert unlearned["layers"]["conv1.weight"]["size"] == 1728
