"""Training for an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from forgetkit.contracts import Augmentation
from forgetkit.data.batches import SamplePool, batch_bounds, epoch_batches
from forgetkit.errors import ConfigError, DivergedError
from forgetkit.seeding import Seeds, restore_rng, seeded_rng
from forgetkit.training.cuda_graph import GraphedStep, Record
from forgetkit.training.epoch_progress import EpochProgress
from forgetkit.unlearning import InterventionRunner, PassCounter, TrainStep

_CHECK_EVERY = 256
"""Steps after which losses are looked at, in an epoch that has more: each look waits for the device."""

Rate = Callable[[int], float]
"""The learning rate of a step, by how many samples of the epoch were done before it."""


@dataclass(frozen=True)
class EpochResult:
    """Means over an epoch, while the weights were changing; of ``skipped`` steps nothing counts but the samples."""

    loss: float
    accuracy: float
    samples: int
    seconds: float
    skipped: int = 0


@dataclass(frozen=True, eq=False)
class Trainer:
    """A model, its optimizer and what acts on them; trains for an epoch at a time. ``passes`` counts its samples."""

    model: nn.Module
    optimizer: Optimizer
    batch_size: int
    augment: Augmentation
    acting: InterventionRunner
    bf16: bool = False
    passes: PassCounter = field(default_factory=PassCounter)
    record: Record | None = None
    """How a step is recorded to be repeated, where that pays; not together with interventions, which look at steps."""
    skips: bool = False
    """Whether a step is left out where its loss or a gradient is not finite. To know that, each step is waited for."""

    def begin(self, pool: SamplePool, mega_batch: int, seeds: Seeds) -> None:
        """Let the interventions prepare for a mega-batch."""
        with seeded_rng(seeds.number(mega_batch, "begin")):
            self.acting.begin(TrainStep(mega_batch), *next(pool.in_order(2)))

    def epoch(
        self,
        pool: SamplePool,
        mega_batch: int,
        epoch: int,
        lr: float | Rate,
        seeds: Seeds,
        stepped: Callable[[EpochProgress, int], None] = lambda epoch_progress, total: None,
        samples: int | None = None,
        epoch_progress: EpochProgress | None = None,
    ) -> EpochResult:
        """Every sample of ``pool`` once, or the first ``samples`` in this epoch's order; or the rest of it.

        ``lr`` is the rate, or gives it for each step. Loss and hits stay on the device until the end. ``stepped`` gets
        the progress of the epoch and the number of its steps after each step. Given a saved ``epoch_progress``, the
        call continues from there, to the same bits.

        Raises ``DivergedError`` where a loss is not finite, or where no step could be made.
        """
        seeds, device = seeds.within(mega_batch, epoch), pool.labels.device
        size = len(pool) if samples is None else samples
        total = len(batch_bounds(size, self.batch_size))
        epoch_progress = epoch_progress or EpochProgress.beginning(device)
        epoch_progress.full = min(size, self.batch_size)
        began = time.perf_counter() - epoch_progress.seconds
        batches = epoch_batches(pool, self.batch_size, self.augment, seeds, size, epoch_progress.steps)
        self.model.train()
        with seeded_rng(seeds.number("noise")):
            if epoch_progress.draws is not None:
                restore_rng(epoch_progress.draws, device)
            for inputs, labels in batches:
                epoch_progress.rate = self._rated(lr, epoch_progress.samples, epoch_progress.rate)
                self._step(TrainStep(mega_batch, epoch, epoch_progress.steps), inputs, labels, epoch_progress)
                epoch_progress.steps += 1
                epoch_progress.samples += len(labels)
                epoch_progress.seconds = time.perf_counter() - began
                self.passes.add(forward=len(labels), backward=len(labels))
                if epoch_progress.steps % _CHECK_EVERY == 0:
                    require_finite(epoch_progress, mega_batch, epoch, total)
                stepped(epoch_progress, total)
            require_finite(epoch_progress, mega_batch, epoch, total)
            self.acting.after_epoch(TrainStep(mega_batch, epoch, total))
        seconds, counted = time.perf_counter() - began, epoch_progress.counted
        return EpochResult(
            epoch_progress.loss_read / counted,
            int(epoch_progress.hits) / counted,
            size,
            seconds,
            epoch_progress.skipped,
        )

    def _step(self, place: TrainStep, inputs: Tensor, labels: Tensor, epoch_progress: EpochProgress) -> None:
        """Forward, backward, and on."""
        before = [buffer.clone() for buffer in self.model.buffers()] if self.skips else []
        with self.acting.step(place, inputs, labels) as acting:
            if self._captured is None or len(labels) < epoch_progress.full:  # what is recorded is what comes most often
                loss, right = self._gradients(inputs, labels, acting.loss)
            else:
                loss, right = self._captured(inputs, labels)
            if self.skips and not self._sound(loss):
                acting.skip()
                for buffer, value in zip(self.model.buffers(), before, strict=True):
                    buffer.copy_(value)  # running statistics know nothing of it either
                epoch_progress.skipped += 1
                return
            acting.before()
            self.optimizer.step()
        epoch_progress.record_step(loss, right, len(labels))

    def _sound(self, loss: Tensor) -> bool:
        """Whether the loss and all gradients are finite; read from the device once."""
        grads = (p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None)
        return bool(torch.stack([loss.isfinite(), *(grad.isfinite().all() for grad in grads)]).all())

    def _gradients(
        self, inputs: Tensor, labels: Tensor, term: Callable[[], Tensor | float] = lambda: 0.0
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward, ``term`` added to the mean loss: that loss without it, and how many were right."""
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
    def _captured(self) -> GraphedStep | None:
        if self.record is None or self.acting.interventions:
            return None
        return GraphedStep(self.model, self._gradients, self.record)

    def _rated(self, lr: float | Rate, done: int, before: float | None) -> float:
        """The rate of the next step. Set where it changes, and at the start: what else sets it meanwhile is left so."""
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


def require_finite(epoch_progress: EpochProgress, mega_batch: int, epoch: int, total: int) -> None:
    """``DivergedError`` where one of the latest losses is not finite, or where none of an epoch's steps was made."""
    where = f"in mega-batch {mega_batch}, epoch {epoch}"
    wrong = epoch_progress.first_nonfinite()
    if wrong is not None:
        step, rate, loss = wrong
        raise DivergedError(
            f"the loss is {loss} {where}, step {step} of {total}, at learning rate {rate:g}: begin anew with a "
            "smaller --lr, or leave such steps out by --on-nan skip"
        )
    if epoch_progress.skipped == total:
        raise DivergedError(
            f"no step could be made {where}, at learning rate {epoch_progress.rate or 0.0:g}: the loss or a gradient "
            "was NaN or infinite in each; begin anew with a smaller --lr"
        )
