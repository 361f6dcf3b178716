"""The cost of unlearning and of its selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from comparisons.measure import Sides
from comparisons.training import Framework, Work, by_hand, framework, wait
from forgetkit import unlearning
from forgetkit.data.batches import ScoringBatches
from forgetkit.engine.context import compute_settings
from forgetkit.registry import registry
from forgetkit.seeding import Seeds

_SAMPLES = 128
_FRACTION = 0.2
_TENSORS, _SCORES = 62, 11_173_962


def snip(device: str) -> Sides:
    """Unlearn by SNIP on ResNet-18; the reference is one forward and backward pass, the selection is excluded."""
    side = framework(Work.images("resnet18", _SAMPLES, device))
    model = side.model
    batches = [next(iter(ScoringBatches(side.pool, Seeds(0), _SAMPLES)))]
    scores = unlearning.score(model, batches, importance=_component("importance", "snip:samples=128"), seeds=Seeds(0))

    def reference() -> int:
        model.eval()
        ((inputs, labels),) = batches
        with by_hand():
            torch.autograd.grad(cross_entropy(model(inputs), labels), list(model.parameters()))
            wait(labels.device)
        return len(labels)

    def select() -> int:
        unlearning.select(scores, _FRACTION, Seeds(0))
        wait(side.pool.labels.device)
        return _SAMPLES

    return Sides(_unlearning(side, batches, f"snip:samples={_SAMPLES}"), reference, excluded=select)


def beside_an_epoch(device: str) -> Sides:
    """Unlearn with the options of a run; the reference is one epoch of training."""
    side = framework(Work.digits(device))
    batches = list(ScoringBatches(side.pool, Seeds(0), 256))
    return Sides(_unlearning(side, batches, "snip"), side)


def selection(device: str) -> Sides:
    """Select among as many scores, in as many tensors, as ResNet-18 has."""
    rng = torch.Generator().manual_seed(0)
    size, rest = divmod(_SCORES, _TENSORS)
    sizes = [size + (index < rest) for index in range(_TENSORS)]
    scores = {str(index): torch.empty(n).exponential_(generator=rng).to(device) for index, n in enumerate(sizes)}
    count = unlearning.count_of(_FRACTION, _SCORES)

    def ours() -> int:
        masks = unlearning.select(scores, _FRACTION, Seeds(0)).masks
        wait(next(iter(masks.values())).device)
        return sum(len(mask) for mask in masks.values())

    def reference() -> int:
        threshold = torch.cat(list(scores.values())).kthvalue(count).values
        masks = {name: score <= threshold for name, score in scores.items()}
        wait(threshold.device)
        return sum(len(mask) for mask in masks.values())

    return Sides(ours, reference)


def _unlearning(side: Framework, batches: list[tuple[torch.Tensor, torch.Tensor]], criterion: str) -> Callable[[], int]:
    importance, reinit = _component("importance", criterion), _component("reinit", f"masked:{_FRACTION}")
    samples = sum(len(labels) for _, labels in batches)

    def unlearn() -> int:
        with compute_settings(None):
            unlearning.unlearn(
                side.model,
                batches,
                importance=importance,
                reinit=reinit,
                optimizer=side.trainer.optimizer,
                seeds=Seeds(0),
            )
            wait(side.pool.labels.device)
        return samples

    return unlearn


def _component(kind: str, spec: str) -> Any:
    return registry.load(entry_points=False).make(kind, spec)[1]
