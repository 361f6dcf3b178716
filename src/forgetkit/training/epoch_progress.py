"""The progress of an epoch between two of its steps, from which it continues to the same bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from forgetkit.errors import DivergedError
from forgetkit.seeding import capture_rng

_SAVED = ("loss", "hits", "steps", "samples", "counted", "skipped", "rate", "seconds", "draws")


@dataclass(frozen=True)
class EpochResult:
    """Means over the samples of an epoch while the weights were changing; ``skipped`` steps count as samples only."""

    loss: float
    accuracy: float
    samples: int
    seconds: float
    skipped: int = 0


@dataclass(eq=False)
class EpochProgress:
    """The sums of an epoch so far.

    ``loss`` and ``hits`` are sums over the samples of the steps that were made (scalars on the device), ``counted`` of
    them; ``skipped`` steps were not made. ``rate`` is the learning rate of the last step. ``draws`` is the global
    random state to continue from, captured by :meth:`save_rng`. The other fields are not part of a checkpoint.
    """

    loss: Tensor
    hits: Tensor
    steps: int = 0
    samples: int = 0
    counted: int = 0
    skipped: int = 0
    rate: float | None = None
    seconds: float = 0.0
    draws: Mapping[str, Any] | None = None
    mega_batch: int = 0
    epoch: int = 0
    total: int = 0
    """Steps of the whole epoch."""
    full: int = 0
    """Samples of a step that is not the last of its epoch."""
    recent: list[tuple[int, float, Tensor]] = field(default_factory=list)
    """Steps since the last check: their number from 1, learning rate and loss."""
    loss_read: float = 0.0
    """The value of ``loss`` at the last check."""

    @classmethod
    def start(cls, device: torch.device) -> EpochProgress:
        """Progress before the first step."""
        return cls(torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))

    def add_step(self, loss: Tensor, hits: Tensor, samples: int) -> None:
        """Add a step over ``samples`` samples: its mean loss and its hits."""
        self.loss += loss * samples
        self.hits += hits
        self.counted += samples
        self.recent.append((self.steps + 1, self.rate or 0.0, loss.clone()))

    def require_finite(self) -> None:
        """Raise ``DivergedError`` if a loss since the last check is not finite, or if every step was skipped."""
        where = f"in mega-batch {self.mega_batch}, epoch {self.epoch}"
        nonfinite = self._first_nonfinite()
        if nonfinite is not None:
            step, rate, loss = nonfinite
            raise DivergedError(
                f"the loss is {loss} {where}, step {step} of {self.total}, at learning rate {rate:g}: start a new run "
                "with a smaller --lr, or leave such steps out by --on-nan skip"
            )
        if self.skipped == self.total:
            raise DivergedError(
                f"no step could be made {where}, at learning rate {self.rate or 0.0:g}: the loss or a gradient was "
                "NaN or infinite in each; start a new run with a smaller --lr"
            )

    def _first_nonfinite(self) -> tuple[int, float, float] | None:
        """The number, learning rate and loss of the first step since the last check whose loss is not finite."""
        recent, self.recent = self.recent, []
        self.loss_read = float(self.loss)
        if not recent or math.isfinite(self.loss_read):
            return None
        losses = torch.stack([loss for _, _, loss in recent]).tolist()
        nonfinite = (n for n, loss in enumerate(losses) if not math.isfinite(loss))
        number = next(nonfinite, len(losses) - 1)  # each may be finite although their sum is not
        return recent[number][0], recent[number][1], losses[number]

    def result(self) -> EpochResult:
        """The result of the epoch, after :meth:`require_finite` of its last step."""
        return EpochResult(
            self.loss_read / self.counted, int(self.hits) / self.counted, self.samples, self.seconds, self.skipped
        )

    def save_rng(self) -> None:
        """Capture the global random state, so that a checkpoint can continue from here."""
        self.draws = capture_rng(self.loss.device)

    def state(self) -> dict[str, Any]:
        """The part that a checkpoint holds; call :meth:`save_rng` before."""
        return {name: getattr(self, name) for name in _SAVED}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> EpochProgress:
        """The progress that a checkpoint holds."""
        return cls(**{**state, "loss": state["loss"].to(device), "hits": state["hits"].to(device)})
