"""Counting right answers, in eval mode."""

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
    between: Callable[[], None] | None = None,
) -> tuple[int, int]:
    """How many of the pool's samples the model gets right, and how many there are.

    Runs in eval mode, without augmentation unless one is asked for, and reads the count once. Nothing of the samples
    stays in the model, and one that draws even in eval mode does so from ``seeds``. ``between`` is called before each
    batch, and may raise. Raises ``DivergedError`` where an output is NaN, which would count as an answer.
    """
    device = pool.labels.device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    lost = torch.zeros((), dtype=torch.bool, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    with eval_mode(model), seeded_rng(seeds.number("noise")), autocast:
        for inputs, labels in ScoringBatches(pool, seeds, pool.at_most(_BATCH), "head", augment):
            if between is not None:
                between()
            outputs = model(inputs)
            correct += (outputs.argmax(-1) == labels).sum()
            lost |= outputs.isnan().any()
    if lost:
        raise DivergedError("the trained network's outputs are NaN: lower the learning rate")
    return int(correct), len(pool)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Meanwhile in eval mode; on leaving, modes, buffers and what modules keep count of are as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with preserved_attributes(model):
        model.eval()
        try:
            yield
        finally:
            for buffer, value in buffers:  # without a look whether that is needed, for which a device would be waited
                buffer.copy_(value)
