"""Counting right answers, in eval mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from forgetkit.contracts import Augmentation
from forgetkit.errors import DivergedError
from forgetkit.seeding import Seeds, global_state
from forgetkit.stream.batches import Offered, Pool

_BATCH = 512


@torch.no_grad()
def accuracy(
    model: nn.Module,
    pool: Pool,
    seeds: Seeds,
    *,
    augment: Augmentation = "none",
    bf16: bool = False,
    between: Callable[[], None] | None = None,
) -> tuple[int, int]:
    """How many of the pool's samples the model gets right, and how many there are.

    Runs in eval mode, without augmentation unless one is asked for, puts the mode back, and reads the count once. A
    model that draws even in eval mode does so from ``seeds``. ``between`` is called before each batch, and may raise.
    Raises ``DivergedError`` where an output is NaN, which
    would count as an answer.
    """
    training = model.training
    model.eval()
    device = pool.labels.device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    lost = torch.zeros((), dtype=torch.bool, device=device)
    with global_state(seeds.number("noise")), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for inputs, labels in Offered(pool, seeds, pool.at_most(_BATCH), "head", augment):
            if between is not None:
                between()
            outputs = model(inputs)
            correct += (outputs.argmax(-1) == labels).sum()
            lost |= outputs.isnan().any()
    model.train(training)
    if lost:
        raise DivergedError("the trained network's outputs are NaN: lower the learning rate")
    return int(correct), len(pool)
