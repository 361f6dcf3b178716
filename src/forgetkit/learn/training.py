"""Training for an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from forgetkit.contracts import Augmentation
from forgetkit.errors import ConfigError, DivergedError
from forgetkit.forgetting import Acting, Passes, Place
from forgetkit.learn.captured import Captured, Record
from forgetkit.seeding import Seeds, global_state
from forgetkit.stream.batches import Pool, batch_bounds, epoch_batches

Rate = Callable[[int], float]
"""The learning rate of a step, by how many samples of the epoch were done before it."""


@dataclass(frozen=True)
class EpochResult:
    """Means over an epoch, while the weights were changing."""

    loss: float
    accuracy: float
    samples: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Trainer:
    """A model, its optimizer and what acts on them; trains for an epoch at a time. ``passes`` counts its samples."""

    model: nn.Module
    optimizer: Optimizer
    batch_size: int
    augment: Augmentation
    acting: Acting
    bf16: bool = False
    passes: Passes = field(default_factory=Passes)
    record: Record | None = None
    """How a step is recorded to be repeated, where that pays; not together with interventions, which look at steps."""

    def begin(self, pool: Pool, mega_batch: int, seeds: Seeds) -> None:
        """Let the interventions prepare for a mega-batch."""
        with global_state(seeds.number(mega_batch, "begin")):
            self.acting.begin(Place(mega_batch), *next(pool.in_order(2)))

    def epoch(
        self,
        pool: Pool,
        mega_batch: int,
        epoch: int,
        lr: float | Rate,
        seeds: Seeds,
        stepped: Callable[[int, int], None] = lambda done, total: None,
        samples: int | None = None,
    ) -> EpochResult:
        """Every sample of ``pool`` once, or the first ``samples`` in this epoch's order.

        ``lr`` is the rate, or says it of each step. Loss and hits stay on the device until the end.

        Raises ``DivergedError`` where the mean loss is not finite.
        """
        began = time.perf_counter()
        seeds = seeds.within(mega_batch, epoch)
        device, size, done = pool.labels.device, len(pool) if samples is None else samples, 0
        total = len(batch_bounds(size, self.batch_size))
        batches = epoch_batches(pool, self.batch_size, self.augment, seeds, size)
        rate = self._rated(lr, 0, None)
        loss_sum = torch.zeros((), device=device)
        hits = torch.zeros((), dtype=torch.int64, device=device)
        self.model.train()
        with global_state(seeds.number("noise")):
            for step, (inputs, labels) in enumerate(batches):
                rate = self._rated(lr, done, rate)
                with self.acting.step(Place(mega_batch, epoch, step), inputs, labels) as acting:
                    if self._captured is None:
                        loss, right = self._gradients(inputs, labels, acting.loss)
                    else:
                        loss, right = self._captured(inputs, labels)
                    acting.before()
                    self.optimizer.step()
                loss_sum += loss * len(labels)
                hits += right
                done += len(labels)
                self.passes.add(forward=len(labels), backward=len(labels))
                stepped(step + 1, total)
            self.acting.after_epoch(Place(mega_batch, epoch, total))
        mean = float(loss_sum) / size
        if not math.isfinite(mean):
            raise DivergedError(
                f"the loss is {mean} in mega-batch {mega_batch}, epoch {epoch}, at learning rate {rate:g}: "
                "try a smaller --lr"
            )
        return EpochResult(mean, int(hits) / size, size, time.perf_counter() - began)

    def _gradients(
        self, inputs: Tensor, labels: Tensor, term: Callable[[], Tensor | float] = lambda: 0.0
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward, ``term`` added to the mean loss: that loss without it, and how many were right."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
            outputs = self._forward(inputs)
            loss = cross_entropy(outputs, labels)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + term()).backward()
        return loss.detach(), (outputs.detach().argmax(-1) == labels).sum()

    @cached_property
    def _captured(self) -> Captured | None:
        if self.record is None or self.acting.interventions:
            return None
        return Captured(self.model, self._gradients, self.record)

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
