"""The evaluation of a model: correct answers, counted in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from forgetkit.contracts import Augmentation
from forgetkit.data.batches import SamplePool, ScoringBatches
from forgetkit.errors import DivergedError
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.unlearning.integrity import preserved_attributes

_BATCH = 512


@torch.no_grad()
def count_correct(
    model: nn.Module,
    pool: SamplePool,
    seeds: Seeds,
    *,
    augment: Augmentation = "none",
    bf16: bool = False,
    before_batch: Callable[[], None] | None = None,
) -> tuple[int, int]:
    """Count the samples of the pool that the model classifies correctly, and all of them.

    The model runs in eval mode and keeps nothing of the samples. Random numbers that it draws come from ``seeds``.
    ``before_batch`` is called before each batch, and may raise.

    Raises:
        DivergedError: An output is NaN, which would count as an answer.
    """
    device = pool.labels.device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    has_nan = torch.zeros((), dtype=torch.bool, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    with eval_mode(model), seeded_rng(seeds.number("noise")), autocast:
        for inputs, labels in ScoringBatches(pool, seeds, pool.at_most(_BATCH), "head", augment, before_batch):
            outputs = model(inputs)
            correct += (outputs.argmax(-1) == labels).sum()
            has_nan |= outputs.isnan().any()
    if has_nan:
        raise DivergedError("the trained network's outputs are NaN: lower the learning rate")
    return int(correct), len(pool)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode; on leaving, restore its modes, buffers and attributes."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with preserved_attributes(model):
        model.eval()
        try:
            yield
        finally:
            for buffer, value in buffers:  # unconditionally: to compare them would wait for the device
                buffer.copy_(value)
