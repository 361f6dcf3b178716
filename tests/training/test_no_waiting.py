"""Within an epoch nothing waits for the device: no number is read back from it before the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from forgetkit import unlearning
from forgetkit.data import SamplePool
from forgetkit.seeding import Seeds
from forgetkit.training import Trainer, count_correct

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select")
"""What makes a device's queue run dry: the host needs the values, or how many there are."""


class Watch(TorchDispatchMode):
    """Counts what would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waits += func.name().startswith(READS)
        return func(*args, **(kwargs or {}))


def pool(samples: int) -> SamplePool:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 3, 8, 8), dtype=torch.uint8, generator=rng)
    return SamplePool(images, torch.randint(3, (samples,), generator=rng))


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(*layers)


def waits(steps: int) -> int:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, foreach=True)
    trainer = Trainer(model, optimizer, 4, "crop-flip", unlearning.InterventionRunner(model, optimizer, [], Seeds(0)))
    with Watch() as watch:
        trainer.epoch(pool(4 * steps), 1, 1, 0.1, Seeds(0))
    return watch.waits


def test_an_epoch_reads_as_little_whatever_its_length() -> None:
    assert waits(2) == waits(12) == 2  # the mean loss and the hits, at the end


def test_judging_reads_once_at_the_end() -> None:
    def judged(samples: int) -> int:
        with Watch() as watch:
            count_correct(net(), pool(samples), Seeds(0))
        return watch.waits

    assert judged(100) == judged(1100) == 2  # the count, and whether an output was NaN


def test_the_watch_sees_a_read() -> None:
    with Watch() as watch:
        float(torch.ones(()) + 1)
        Tensor.nonzero(torch.ones(3))
    assert watch.waits == 2
