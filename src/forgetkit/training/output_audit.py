"""An audit of a network's outputs: cross entropy expects unbounded numbers."""

from __future__ import annotations

import torch
from torch import nn

from forgetkit.data.batches import SamplePool
from forgetkit.seeding import Seeds, seeded_rng

_SUM = 1e-3
"""How far from one the sum of a sample's probabilities may be, in float32."""


@torch.no_grad()
def audit_outputs(model: nn.Module, pool: SamplePool, seeds: Seeds) -> tuple[str, ...]:
    """Audit the outputs for a batch, in training and in eval mode; return at most one sentence.

    Running statistics move as in any step, and the model is left in eval mode. A softmax at the end is recognised by
    its values. A log-softmax is no finding, since the softmax of it is the same.

    Args:
        model: takes a batch and gives outputs of shape ``(n, classes)``.
        pool: the batch, all of it.
        seeds: what dropout draws from.
    """
    for mode in ("train", "eval"):
        model.train(mode == "train")
        with seeded_rng(seeds.number("outputs")):
            outputs = torch.cat([model(inputs) for inputs, _ in pool.in_order(len(pool))]).float()
        if outputs.shape[1] == 1 or not bool(((outputs > 0) & (outputs < 1)).all()):
            continue
        when = "" if mode == "train" else ", in eval mode"
        if bool(((outputs.sum(1) - 1).abs() < _SUM).all()):
            return (
                f"the network's outputs sum to one already{when}, as after a softmax: cross entropy takes the softmax "
                "itself, so learning and scores suffer; leave it out of the network",
            )
        return (
            f"the network's outputs all lie between 0 and 1{when}, as after a sigmoid: cross entropy expects unbounded "
            "numbers, so learning and scores suffer; leave it out of the network",
        )
    return ()
