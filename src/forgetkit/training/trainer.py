"""The training of a network for an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from forgetkit.contracts import Augmentation
from forgetkit.data.batches import SamplePool, batch_bounds, epoch_batches
from forgetkit.errors import ConfigError
from forgetkit.seeding import Seeds, restore_rng, seeded_rng
from forgetkit.training.cuda_graph import GraphedStep, Record
from forgetkit.training.epoch_progress import EpochProgress, EpochResult
from forgetkit.unlearning import InterventionRunner, PassCounter, TrainStep

_CHECK_EVERY = 256
"""Steps between two checks of the losses: each check waits for the device."""

Rate = Callable[[int], float]
"""Gives the learning rate of a step for the number of samples of the epoch before it."""


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains a model with its optimizer and interventions, an epoch at a time; ``passes`` counts the samples."""

    model: nn.Module
    optimizer: Optimizer
    batch_size: int
    augment: Augmentation
    runner: InterventionRunner
    bf16: bool = False
    passes: PassCounter = field(default_factory=PassCounter)
    record: Record | None = None
    """Records a step as a graph, or None. It is not used with interventions, which act within a step."""
    skips: bool = False
    """Whether a step is skipped if its loss or a gradient is not finite. Each step then waits for the device."""

    def begin(self, pool: SamplePool, mega_batch: int, seeds: Seeds) -> None:
        """Call the interventions before the first step of a mega-batch."""
        with seeded_rng(seeds.number(mega_batch, "begin")):
            self.runner.begin(TrainStep(mega_batch), next(pool.in_order(2)))

    def epoch(self, pool: SamplePool, mega_batch: int, epoch: int, lr: float | Rate, seeds: Seeds) -> EpochResult:
        """Train on every sample of ``pool`` once."""
        progress = EpochProgress.start(pool.labels.device)
        with closing(self.steps(pool, mega_batch, epoch, lr, seeds, progress)) as steps:
            for _ in steps:
                pass
        return progress.result()

    def steps(
        self,
        pool: SamplePool,
        mega_batch: int,
        epoch: int,
        lr: float | Rate,
        seeds: Seeds,
        progress: EpochProgress,
        samples: int | None = None,
    ) -> Generator[EpochProgress, None, None]:
        """Train for an epoch, or for the rest of it; yield after each step.

        Close the generator if it is left early: the global random state is that of the epoch meanwhile. Loss and hits
        stay on the device until the end.

        Args:
            pool: The samples.
            mega_batch: Its number, from 1.
            epoch: Its number in the mega-batch, from 1.
            lr: The learning rate, or a function that gives it for each step.
            seeds: The random streams of the run.
            progress: :meth:`EpochProgress.start`, or the progress of a checkpoint, from which the epoch continues to
                the same bits. It is updated in place.
            samples: Train on that many of the samples only, the first in this epoch's order.

        Raises:
            DivergedError: A loss is not finite, or no step could be made.
        """
        seeds, device = seeds.within(mega_batch, epoch), pool.labels.device
        size = len(pool) if samples is None else samples
        progress.mega_batch, progress.epoch = mega_batch, epoch
        progress.total, progress.full = len(batch_bounds(size, self.batch_size)), min(size, self.batch_size)
        start_time = time.perf_counter() - progress.seconds
        batches = epoch_batches(pool, self.batch_size, self.augment, seeds, size, progress.steps)
        self.model.train()
        with seeded_rng(seeds.number("noise")):
            if progress.draws is not None:
                restore_rng(progress.draws, device)
            for inputs, labels in batches:
                progress.rate = self._set_rate(lr, progress.samples, progress.rate)
                self._step(TrainStep(mega_batch, epoch, progress.steps), inputs, labels, progress)
                progress.steps += 1
                progress.samples += len(labels)
                progress.seconds = time.perf_counter() - start_time
                self.passes.add(forward=len(labels), backward=len(labels))
                if progress.steps % _CHECK_EVERY == 0:
                    progress.require_finite()
                yield progress
            progress.require_finite()
            self.runner.after_epoch(TrainStep(mega_batch, epoch, progress.total))
        progress.seconds = time.perf_counter() - start_time

    def _step(self, position: TrainStep, inputs: Tensor, labels: Tensor, progress: EpochProgress) -> None:
        before = [buffer.clone() for buffer in self.model.buffers()] if self.skips else []
        with self.runner.step(position, (inputs, labels)) as hooks:
            if self._graphed_step is None or len(labels) < progress.full:  # the most frequent shape is recorded
                loss, right = self._gradients(inputs, labels, hooks.loss)
            else:
                loss, right = self._graphed_step(inputs, labels)
            if self.skips and not self._is_finite(loss):
                hooks.skip()
                for buffer, value in zip(self.model.buffers(), before, strict=True):
                    buffer.copy_(value)  # running statistics leave the step out, too
                progress.skipped += 1
                return
            hooks.before()
            self.optimizer.step()
        progress.add_step(loss, right, len(labels))

    def _is_finite(self, loss: Tensor) -> bool:
        """Whether the loss and all gradients are finite; reads from the device once."""
        grads = (p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None)
        return bool(torch.stack([loss.isfinite(), *(grad.isfinite().all() for grad in grads)]).all())

    def _gradients(
        self, inputs: Tensor, labels: Tensor, term: Callable[[], Tensor | float] = lambda: 0.0
    ) -> tuple[Tensor, Tensor]:
        """Run forward and backward with ``term`` added to the mean loss; return that loss without it, and the hits."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
            outputs = self._forward(inputs)
            loss = cross_entropy(outputs, labels)
        if not loss.requires_grad:
            raise ConfigError(
                "the network's outputs have no gradient, so it learns nothing: let its forward() go without "
                "torch.no_grad(), torch.inference_mode() and detach(), and let some parameters require gradients"
            )
        self.optimizer.zero_grad(set_to_none=True)
        (loss + term()).backward()
        return loss.detach(), (outputs.detach().argmax(-1) == labels).sum()

    @cached_property
    def _graphed_step(self) -> GraphedStep | None:
        if self.record is None or self.runner.interventions:
            return None
        return GraphedStep(self.model, self._gradients, self.record)

    def _set_rate(self, lr: float | Rate, done: int, before: float | None) -> float:
        """Set the learning rate of the next step if it changes: between two changes an intervention may set its own."""
        rate = lr(done) if callable(lr) else lr
        if rate != before:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        return rate

    def _forward(self, inputs: Tensor) -> Tensor:
        try:
            return self.model(inputs)  # type: ignore[no-any-return]
        except ValueError as error:
            if len(inputs) == 1 and "more than 1 value per channel" in str(error):
                remedy = "a larger --batch-size" if self.batch_size == 1 else "fewer --mega-batches, or other --samples"
                raise ConfigError(
                    f"batch normalisation cannot train on a batch of a single sample: use {remedy}"
                ) from error
            raise
