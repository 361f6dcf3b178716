"""Training beside hand-written loops."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from comparisons.measure import Sides
from forgetkit import training, unlearning
from forgetkit.contracts import Augmentation, DataSplit, Inputs, LoadContext, ModelBuilder
from forgetkit.data import SamplePool
from forgetkit.data.batches import pixels
from forgetkit.engine.context import compute_settings
from forgetkit.registry import registry
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.training.precision import has_native_bf16

BATCH = 64
_LR = 0.01
_SEEDS = Seeds(0)


@dataclass(frozen=True, eq=False)
class Work:
    """A network, samples on a device, and how to train: the same for both sides."""

    builder: ModelBuilder
    pool: SamplePool
    inputs: Inputs
    augment: Augmentation = "none"
    bf16: bool = False

    @classmethod
    def images(cls, model: str, samples: int, device: str) -> Work:
        """Random images of shape ``(3, 32, 32)`` as ``uint8``, with random labels of ten classes."""
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (samples, 3, 32, 32), dtype=np.uint8)
        return cls._of(model, DataSplit(images, rng.integers(0, 10, samples)), device)

    @classmethod
    def digits(cls, device: str) -> Work:
        """``convnet`` and the training part of the digits."""
        source = registry.load(entry_points=False).make("datasets", "digits")[1]
        data = source.load(LoadContext(Path(), lambda what, done, total: None))
        return cls._of("convnet", data.train, device)

    @classmethod
    def _of(cls, model: str, part: DataSplit, device: str) -> Work:
        builder = registry.load(entry_points=False).make("models", model)[1]
        measured = training.measure_normalization(SamplePool.of(part, torch.device("cpu")), 10)
        return cls(builder, SamplePool.of(part, torch.device(device)), measured)

    @property
    def device(self) -> torch.device:
        """The device of the samples."""
        return self.pool.labels.device


@dataclass(eq=False)
class Framework:
    """An epoch at each call, as a run trains it."""

    trainer: training.Trainer
    pool: SamplePool
    epochs: int = 0

    def __call__(self) -> int:
        """Train an epoch; returns the number of samples."""
        self.epochs += 1
        with compute_settings(None):
            return self.trainer.epoch(self.pool, 1, self.epochs, _LR, _SEEDS).samples

    @property
    def model(self) -> nn.Module:
        """The network in training."""
        return self.trainer.model


@dataclass(eq=False)
class BareLoop:
    """An epoch at each call, over floats that are on the device already."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    inputs: Tensor
    labels: Tensor

    def __call__(self) -> int:
        """Train an epoch; returns the number of samples."""
        self.model.train()
        with by_hand():
            for ids in torch.randperm(len(self.labels), device=self.labels.device).split(BATCH):
                step(self.model, self.optimizer, self.inputs[ids], self.labels[ids])
            wait(self.labels.device)
        return len(self.labels)


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor, *, bf16: bool = False
) -> None:
    """Take a training step; nothing is read back from the device."""
    with torch.autocast(inputs.device.type, torch.bfloat16) if bf16 else nullcontext():
        loss = cross_entropy(model(inputs), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def by_hand() -> AbstractContextManager[None]:
    """Let cuDNN benchmark its algorithms and choose nondeterministic ones, as fast hand-written loops do."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False)


def framework(work: Work) -> Framework:
    """Build our side as a run builds it."""
    model = training.build_network(work.builder, work.inputs, _SEEDS)
    model = training.to_device(
        model, training.choose_memory_format("auto", model, work.inputs, work.device), work.device
    )
    on_cuda = work.device.type == "cuda"
    optimizer = sgd(model, foreach=True)
    passes = unlearning.PassCounter()
    interventions = unlearning.InterventionRunner(model, optimizer, [], _SEEDS, passes=passes)
    record = training.cuda_graph if on_cuda else None
    trainer = training.Trainer(model, optimizer, BATCH, work.augment, interventions, work.bf16, passes, record)
    return Framework(trainer, work.pool)


def bare_loop(work: Work, layout: torch.memory_format) -> BareLoop:
    """Build the fastest hand-written loop: inputs are normalised before training, not in the network."""
    model = network(work).to(work.device).to(memory_format=layout)
    shape = (1, -1, *([1] * (len(work.inputs.shape) - 1)))
    mean, std = (torch.tensor(values, device=work.device).view(shape) for values in (work.inputs.mean, work.inputs.std))
    inputs = ((pixels(work.pool.inputs[:]) - mean) / std).contiguous(memory_format=layout)
    return BareLoop(model, sgd(model, fused=True), inputs, work.pool.labels)


def network(work: Work) -> nn.Module:
    """Build the reference's network: our initial weights, for inputs that are normalised already."""
    with seeded_rng(_SEEDS.number("init")):
        return work.builder.build(work.inputs, nn.Identity())


def sgd(model: nn.Module, *, fused: bool | None = None, foreach: bool | None = None) -> torch.optim.Optimizer:
    """Build the optimizer of both sides; torch chooses the implementation by default."""
    return torch.optim.SGD(model.parameters(), _LR, 0.9, weight_decay=5e-4, fused=fused, foreach=foreach)


def bare(work: Work) -> Sides:
    """Set the framework beside the fastest bare loop in the same layout and precision."""
    return Sides(framework(work), bare_loop(work, torch.channels_last))


def automatic(work: Work) -> Sides:
    """Set what ``auto`` chooses beside a plain loop in fp32 and torch's default layout."""
    return Sides(framework(in_chosen_precision(work)), bare_loop(work, torch.contiguous_format))


def in_chosen_precision(work: Work) -> Work:
    """Replace the precision by the one that ``auto`` stands for on this machine."""
    model = training.build_network(work.builder, work.inputs, _SEEDS)
    operations = training.count_operations(model, work.inputs, BATCH, work.device)
    return replace(work, bf16=training.choose_precision(operations, work.device) == "bf16")


def no_bf16(device: str) -> str | None:
    """Give the reason if ``auto`` has no choice of precision on this device."""
    return None if has_native_bf16(torch.device(device)) else "the hardware does not multiply in bf16"
