"""Training, beside the loops that people write by hand."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from forgetkit import training, unlearning
from forgetkit.bench.measure import BenchmarkOptions, Sides
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
    """What both sides train: a network, samples on a device, and how."""

    builder: ModelBuilder
    pool: SamplePool
    inputs: Inputs
    augment: Augmentation = "none"
    bf16: bool = False

    @classmethod
    def images(cls, model: str, samples: int, setting: BenchmarkOptions) -> Work:
        """Random colour images of 32 × 32 as ``uint8``, random labels of ten classes."""
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (samples, 3, 32, 32), dtype=np.uint8)
        return cls._of(model, DataSplit(images, rng.integers(0, 10, samples)), setting)

    @classmethod
    def digits(cls, setting: BenchmarkOptions) -> Work:
        """``convnet`` on the training part of the digits."""
        source = registry.load(entry_points=False).make("datasets", "digits")[1]
        data = source.load(LoadContext(Path(), lambda what, done, total: None))
        return cls._of("convnet", data.train, setting)

    @classmethod
    def _of(cls, model: str, part: DataSplit, setting: BenchmarkOptions) -> Work:
        builder = registry.load(entry_points=False).make("models", model)[1]
        measured = training.measure_normalization(SamplePool.of(part, torch.device("cpu")), 10)
        return cls(builder, SamplePool.of(part, torch.device(setting.device)), measured)

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.pool.labels.device


@dataclass(eq=False)
class Framework:
    """An epoch as a run trains it, at each call."""

    trainer: training.Trainer
    pool: SamplePool
    epochs: int = 0

    def __call__(self) -> int:
        """Samples trained on."""
        self.epochs += 1
        with compute_settings(None):
            return self.trainer.epoch(self.pool, 1, self.epochs, _LR, _SEEDS).samples

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self.trainer.model


@dataclass(eq=False)
class BareLoop:
    """An epoch over floats that lie ready on the device, in their own layout, at each call."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    inputs: Tensor
    labels: Tensor

    def __call__(self) -> int:
        """Samples trained on."""
        self.model.train()
        with by_hand():
            for ids in torch.randperm(len(self.labels), device=self.labels.device).split(BATCH):
                step(self.model, self.optimizer, self.inputs[ids], self.labels[ids])
            wait(self.labels.device)
        return len(self.labels)


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor, *, bf16: bool = False
) -> None:
    """A step of training as anybody writes it; nothing is read back from the device."""
    with torch.autocast(inputs.device.type, torch.bfloat16) if bf16 else nullcontext():
        loss = cross_entropy(model(inputs), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def by_hand() -> AbstractContextManager[None]:
    """cuDNN as somebody sets it who wants speed: it tries its algorithms, and need not give the same bits again."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False)


def framework(work: Work) -> Framework:
    """Ours, made as a run makes it."""
    model = training.build_network(work.builder, work.inputs, _SEEDS)
    model = training.to_device(
        model, training.choose_memory_format("auto", model, work.inputs, work.device), work.device
    )
    on_cuda = work.device.type == "cuda"
    optimizer = sgd(model, foreach=True)
    passes = unlearning.PassCounter()
    acting = unlearning.InterventionRunner(model, optimizer, [], _SEEDS, passes=passes)
    record = training.cuda_graph if on_cuda else None
    trainer = training.Trainer(model, optimizer, BATCH, work.augment, acting, work.bf16, passes, record)
    return Framework(trainer, work.pool)


def bare_loop(work: Work, layout: torch.memory_format) -> BareLoop:
    """The best that can be written by hand over floats: they are normalised before, not in the network."""
    model = network(work).to(work.device).to(memory_format=layout)
    shape = (1, -1, *([1] * (len(work.inputs.shape) - 1)))
    mean, std = (torch.tensor(values, device=work.device).view(shape) for values in (work.inputs.mean, work.inputs.std))
    inputs = ((pixels(work.pool.inputs[:]) - mean) / std).contiguous(memory_format=layout)
    return BareLoop(model, sgd(model, fused=True), inputs, work.pool.labels)


def network(work: Work) -> nn.Module:
    """The network of the other side, with the values that ours begins with; it takes samples that are normalised."""
    with seeded_rng(_SEEDS.number("init")):
        return work.builder.build(work.inputs, nn.Identity())


def sgd(model: nn.Module, *, fused: bool | None = None, foreach: bool | None = None) -> torch.optim.Optimizer:
    """The optimizer of both sides; how it steps is as torch has it where nothing is said."""
    return torch.optim.SGD(model.parameters(), _LR, 0.9, weight_decay=5e-4, fused=fused, foreach=foreach)


def bare(work: Work) -> Sides:
    """The framework beside the best bare loop in the same layout and precision."""
    return Sides(framework(work), bare_loop(work, torch.channels_last))


def automatic(work: Work) -> Sides:
    """What ``auto`` chooses beside a plain loop in fp32 and torch's own layout."""
    return Sides(
        framework(replace(work, bf16=chosen_precision(work) == "bf16")), bare_loop(work, torch.contiguous_format)
    )


def chosen_precision(work: Work) -> str:
    """The precision that a run chooses here."""
    model = training.build_network(work.builder, work.inputs, _SEEDS)
    return training.choose_precision(training.count_operations(model, work.inputs, BATCH, work.device), work.device)


def no_bf16(setting: BenchmarkOptions) -> str | None:
    """Why there is nothing for ``auto`` to choose."""
    return None if has_native_bf16(torch.device(setting.device)) else "the hardware has no bf16 of its own"
