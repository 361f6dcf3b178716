"""Training, beside the loops that people write by hand."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from forgetkit import forgetting, learn, registry
from forgetkit.bench.measure import Setting, Sides
from forgetkit.contracts import Augmentation, Inputs, LoadContext, ModelBuilder, Part
from forgetkit.seeding import Seeds, global_state
from forgetkit.session import computing
from forgetkit.stream import Pool
from forgetkit.stream.batches import pixels

BATCH = 64
_LR = 0.01
_SEEDS = Seeds(0)


@dataclass(frozen=True, eq=False)
class Work:
    """What both sides train: a network, samples on a device, and how."""

    builder: ModelBuilder
    pool: Pool
    inputs: Inputs
    augment: Augmentation = "none"
    bf16: bool = False

    @classmethod
    def images(cls, model: str, samples: int, setting: Setting) -> Work:
        """Random colour images of 32 × 32 as ``uint8``, random labels of ten classes."""
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (samples, 3, 32, 32), dtype=np.uint8)
        return cls._of(model, Part(images, rng.integers(0, 10, samples)), setting)

    @classmethod
    def digits(cls, setting: Setting) -> Work:
        """``convnet`` on the training part of the digits."""
        source = registry.load(entry_points=False).make("datasets", "digits")[1]
        data = source.load(LoadContext(Path(), lambda what, done, total: None))
        return cls._of("convnet", data.train, setting)

    @classmethod
    def _of(cls, model: str, part: Part, setting: Setting) -> Work:
        builder = registry.load(entry_points=False).make("models", model)[1]
        measured = learn.measured(Pool.of(part, torch.device("cpu")), 10)
        return cls(builder, Pool.of(part, torch.device(setting.device)), measured)

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.pool.labels.device


@dataclass(eq=False)
class Framework:
    """An epoch as a run trains it, at each call."""

    trainer: learn.Trainer
    pool: Pool
    epochs: int = 0

    def __call__(self) -> int:
        """Samples trained on."""
        self.epochs += 1
        with computing(None):
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
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))

    def __call__(self) -> int:
        """Samples trained on."""
        self.model.train()
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


def framework(work: Work) -> Framework:
    """Ours, made as a run makes it."""
    model = learn.network(work.builder, work.inputs, _SEEDS).to(work.device)
    optimizer = sgd(model)
    passes = forgetting.Passes()
    acting = forgetting.Acting(model, optimizer, [], _SEEDS, passes=passes)
    return Framework(learn.Trainer(model, optimizer, BATCH, work.augment, acting, work.bf16, passes), work.pool)


def bare_loop(work: Work, layout: torch.memory_format) -> BareLoop:
    """The best that can be written by hand over floats: they are normalised before, not in the network."""
    model = network(work).to(work.device).to(memory_format=layout)
    shape = (1, -1, *([1] * (len(work.inputs.shape) - 1)))
    mean, std = (torch.tensor(values, device=work.device).view(shape) for values in (work.inputs.mean, work.inputs.std))
    inputs = ((pixels(work.pool.inputs) - mean) / std).contiguous(memory_format=layout)
    return BareLoop(model, sgd(model), inputs, work.pool.labels)


def network(work: Work) -> nn.Module:
    """The network of the other side, with the values that ours begins with; it takes samples that are normalised."""
    with global_state(_SEEDS.number("init")):
        return work.builder.build(work.inputs, nn.Identity())


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of both sides."""
    return torch.optim.SGD(model.parameters(), _LR, 0.9, weight_decay=5e-4, fused=True)


def bare(work: Work) -> Sides:
    """The framework beside the best bare loop in the same layout and precision."""
    return Sides(framework(work), bare_loop(work, torch.channels_last))


def automatic(work: Work) -> Sides:
    """What ``auto`` chooses beside a plain loop in fp32 and torch's own layout."""
    return Sides(framework(replace(work, bf16=True)), bare_loop(work, torch.contiguous_format))


def no_bf16(setting: Setting) -> str | None:
    """Why there is nothing for ``auto`` to choose."""
    if setting.device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if native else "this device has no bf16 of its own"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return None if native else "this processor has no bf16 of its own"
