"""Counting right answers, in eval mode."""

from __future__ import annotations

import torch
from torch import nn

from forgetkit.seeding import global_state
from forgetkit.stream.batches import Pool

_BATCH = 512


@torch.no_grad()
def accuracy(model: nn.Module, pool: Pool, seed: int, *, bf16: bool = False) -> tuple[int, int]:
    """How many of the pool's samples the model gets right, and how many there are.

    Runs in eval mode without augmentation, puts the mode back, and reads the count once. A model that
    draws even in eval mode does so from ``seed``.
    """
    training = model.training
    model.eval()
    device = pool.labels.device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with global_state(seed), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for inputs, labels in pool.in_order(_BATCH):
            correct += (model(inputs).argmax(-1) == labels).sum()
    model.train(training)
    return int(correct), len(pool)
