"""Training beside a common loop: a DataLoader with torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from comparisons.measure import Sides
from comparisons.training import BATCH, Work, by_hand, framework, in_chosen_precision, network, sgd, step, wait


class TransformedSamples(Dataset[tuple[Tensor, Tensor]]):
    """``uint8`` images of shape ``(3, 32, 32)``, each transformed by torchvision when it is read."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from torchvision.transforms import v2

        self._images, self._labels = images, labels
        self._transform: Callable[[Tensor], Tensor] = v2.Compose(
            [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._transform(self._images[index]), self._labels[index]


@dataclass(eq=False)
class LoaderLoop:
    """An epoch over a DataLoader at each call, in a memory layout; the loader's workers persist."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DataLoader[Any]
    device: torch.device
    bf16: bool
    layout: torch.memory_format

    def __call__(self) -> int:
        """Train an epoch; returns the number of samples."""
        self.model.train()
        done = 0
        with by_hand():
            for batch in self.loader:
                inputs, labels = (part.to(self.device, non_blocking=True) for part in batch)
                inputs = inputs.contiguous(memory_format=self.layout)
                step(self.model, self.optimizer, inputs, labels, bf16=self.bf16)
                done += len(labels)
            wait(self.device)
        return done

    def close(self) -> None:
        """End the workers."""
        del self.loader


def convnet_by_default(samples: int, device: str, workers: int) -> Sides:
    """Train ``convnet`` with crop and flip: a run with default options beside a plain loop in fp32."""
    work = Work.images("convnet", samples, device)
    return _beside_a_loader(work, in_chosen_precision(work), workers, torch.contiguous_format)


def resnet18_in_bf16(samples: int, device: str, workers: int) -> Sides:
    """Train ResNet-18 with crop and flip, both sides in bf16 and channels last: loading and loop differ."""
    work = replace(Work.images("resnet18", samples, device), bf16=True)
    return _beside_a_loader(work, work, workers, torch.channels_last)


def _beside_a_loader(work: Work, ours: Work, workers: int, layout: torch.memory_format) -> Sides:
    model = network(work).to(work.device).to(memory_format=layout)
    loader: DataLoader[Any] = DataLoader(
        TransformedSamples(work.pool.inputs[:].cpu(), work.pool.labels.cpu()),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=work.device.type == "cuda",
    )
    reference = LoaderLoop(model, sgd(model, fused=True), loader, work.device, work.bf16, layout)
    return Sides(framework(replace(ours, augment="crop-flip")), reference, close=reference.close)
