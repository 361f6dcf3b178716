"""A loss counts by what it averages over: cutting the same samples into other batches changes no score."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers.unlearning_networks import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import forgetkit
from forgetkit.errors import ComponentError

GENERATOR = torch.Generator().manual_seed(5)
INPUTS = torch.randn(9, 4, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, -100, 2, 1, -100, -100, 0])
CLASSES = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
SOFT = torch.softmax(torch.randn(9, 3, generator=GENERATOR, dtype=torch.float64), 1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def halves(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * F.cross_entropy(outputs, targets) + 0.1 * F.cross_entropy(2 * outputs, targets)


def summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, weight=CLASSES, reduction="sum")


def kept_labels(targets: Tensor) -> Tensor:
    return (targets != -100).double()


def of_classes(targets: Tensor) -> Tensor:
    return kept_labels(targets) * CLASSES[targets.clamp_min(0)]


def of_higher_classes(targets: Tensor) -> Tensor:
    return kept_labels(targets) * (CLASSES + 1)[targets.clamp_min(0)]


Weigh = Callable[[Tensor], Tensor]
LOSSES: dict[str, tuple[Callable[..., Tensor], Tensor, Weigh]] = {
    "plain": (F.cross_entropy, LABELS, kept_labels),
    "module": (nn.CrossEntropyLoss(), LABELS, kept_labels),
    "other label": (partial(F.cross_entropy, ignore_index=1), LABELS.clamp_min(0), lambda y: (y != 1).double()),
    "classes": (nn.CrossEntropyLoss(weight=CLASSES), LABELS, of_classes),
    "smoothed": (nn.CrossEntropyLoss(weight=CLASSES + 1, label_smoothing=0.1), LABELS, of_higher_classes),
    "likelihood": (lambda o, y: F.nll_loss(o.log_softmax(1), y, weight=CLASSES), LABELS, of_classes),
    "a sum": (summed, LABELS, of_classes),
    "a module that sums": (nn.CrossEntropyLoss(reduction="sum"), LABELS, kept_labels),
    "two terms": (halves, LABELS, kept_labels),
    "probabilities": (F.cross_entropy, SOFT, lambda y: torch.ones(len(y)).double()),
    "squares": (F.mse_loss, SOFT, lambda y: torch.ones(len(y)).double()),
    "sum of squares": (nn.MSELoss(reduction="sum"), SOFT, lambda y: torch.ones(len(y)).double()),
}


def gradients(loss: Callable[..., Tensor], targets: Tensor, weigh: Weigh) -> tuple[list[dict[str, Tensor]], Tensor]:
    """The gradient of each sample's own mean loss in a loop, and what it averages over."""
    model, found = network(), []
    weights = weigh(targets)
    for n in range(len(targets)):
        value = loss(model(INPUTS[n : n + 1]), targets[n : n + 1])
        if value.isfinite() and weights[n]:
            summing = getattr(loss, "reduction", "mean") == "sum" or loss is summed
            value = value / weights[n] if summing else value
            grads = torch.autograd.grad(value, list(model.parameters()))
        else:
            grads = [torch.zeros_like(p) for p in model.parameters()]
        found.append(dict(zip(dict(model.named_parameters()), grads, strict=True)))
    return found, weights


def expected(criterion: str, loss: Callable[..., Tensor], targets: Tensor, weigh: Weigh) -> dict[str, Tensor]:
    grads, weights = gradients(loss, targets, weigh)
    each: dict[str, Callable[[Tensor], Tensor]] = {"fisher": torch.square, "snip:reduce=per-sample": torch.abs}
    scores = {}
    for name, value in network().named_parameters():
        function = each.get(criterion, lambda grad: grad)
        mean = sum(w * function(g[name]) for w, g in zip(weights, grads, strict=True)) / weights.sum()
        scores[name] = (mean if criterion == "fisher" else (value * mean).abs()).detach()
    return scores


def cut(samples: list[Tensor], sizes: list[int]) -> list[tuple[Tensor, ...]]:
    edges = sorted({0, *(size % 9 for size in sizes), 9})
    return [tuple(part[a:b] for part in samples) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("criterion", ["snip", "fisher", "snip:reduce=per-sample"])
@pytest.mark.parametrize(("loss", "targets", "weigh"), LOSSES.values(), ids=LOSSES)
def test_no_cut_changes_a_score(loss, targets, weigh, criterion):
    wanted = expected(criterion, loss, targets, weigh)

    @settings(max_examples=5)
    @given(sizes=st.lists(st.integers(1, 8), max_size=6), keyed=st.booleans())
    def compare(sizes: list[int], keyed: bool) -> None:
        pairs = cut([INPUTS, targets], sizes)
        if keyed:
            batches: list[Any] = [{"x": x, "y": y} for x, y in pairs]
            found = forgetkit.score(
                network(), batches, importance=criterion, objective=lambda model, b: loss(model(b["x"]), b["y"])
            )
        else:
            found = forgetkit.score(network(), pairs, importance=criterion, loss=loss)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)

    compare()


def test_a_mean_over_ignored_positions():
    torch.manual_seed(0)
    model = nn.Conv1d(2, 3, 3, padding=1).double()
    inputs, labels = torch.randn(6, 2, 5).double(), torch.randint(-1, 3, (6, 5)).where(torch.rand(6, 5) < 0.5, -100)
    labels[labels == -1] = -100
    for criterion in ("snip", "fisher"):
        cuts = (
            forgetkit.score(model, [(inputs[a:b], labels[a:b]) for a, b in edges], importance=criterion)
            for edges in ([(0, 6)], [(0, 1), (1, 4), (4, 6)])
        )
        torch.testing.assert_close(*cuts, rtol=1e-9, atol=1e-12)


def test_the_weight_that_an_objective_returns():
    mask = torch.tensor([1, 1, 0, 1, 0, 0, 1, 0, 1.0]).double()

    def objective(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        x, kept = batch["x"], batch["mask"]
        return (model(x).square().sum(1) * kept).sum() / kept.sum(), kept.sum()

    wanted = forgetkit.score(
        network(), [{"x": INPUTS[mask > 0], "mask": mask[mask > 0]}], objective=objective, importance="fisher"
    )
    for sizes in ([], [4], [2, 3, 5, 6], list(range(9))):
        batches = [{"x": x, "mask": kept} for x, kept in cut([INPUTS, mask], sizes)]
        found = forgetkit.score(network(), batches, objective=objective, importance="fisher")
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_terms_that_average_over_different_labels_are_told(caplog):
    def objective(model: nn.Module, batch: Any) -> Tensor:
        logits = model(batch["x"])
        return F.cross_entropy(logits, batch["y"]) + F.cross_entropy(logits, batch["z"])

    other = LABELS.roll(1)
    options: dict[str, Any] = {"objective": objective, "reinit": "masked:fraction=0.2"}
    report = forgetkit.unlearn(network(), [{"x": INPUTS, "y": LABELS, "z": other}], **options)
    assert not report.remarks  # each has three ignored
    report = forgetkit.unlearn(network(), [{"x": INPUTS, "y": LABELS, "z": other.clamp_min(0)}], **options)
    assert "average over different numbers of labels" in report.remarks[0]
    forgetkit.score(network(), [{"x": INPUTS, "y": LABELS, "z": other.clamp_min(0)}], objective=objective)
    assert "average over different numbers of labels" in caplog.text


@pytest.mark.parametrize("criterion", ["snip", "snip:reduce=mean-abs", "fisher", "snip:reduce=per-sample"])
def test_labels_that_are_all_ignored(criterion):
    ignored = torch.full((4,), -100)
    with refused(ComponentError, match=f"{criterion}: the loss averages over nothing on all scoring samples"):
        forgetkit.score(network(), [(INPUTS[:4], ignored), (INPUTS[4:8], ignored)], importance=criterion)
    some = forgetkit.score(network(), [(INPUTS[:4], ignored), (INPUTS[4:5], LABELS[4:5])], importance=criterion)
    torch.testing.assert_close(some, forgetkit.score(network(), [(INPUTS[4:5], LABELS[4:5])], importance=criterion))


def test_a_mean_of_one_batch_is_its_gradient_to_the_bit():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    labels = LABELS.clamp_min(0)
    (grad,) = torch.autograd.grad(F.cross_entropy(model(INPUTS.float()), labels), [model.weight])
    found = forgetkit.score(model, [(INPUTS.float(), labels)])["weight"]
    assert torch.equal(found, (model.weight * grad).abs())
