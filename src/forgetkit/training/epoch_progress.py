"""An epoch between two of its steps: all that is needed to go on with it to the same bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from forgetkit.seeding import capture_rng


@dataclass(eq=False)
class EpochProgress:
    """What an epoch has come to so far.

    ``loss`` and ``hits`` are sums over the samples of the steps that were made (scalars on the device), ``counted`` of
    them; ``skipped`` steps were not made. ``rate`` is the learning rate of the last step. ``draws`` is the global
    random state to go on with, noted by :meth:`save_rng`.
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
    recent: list[tuple[int, float, Tensor]] = field(default_factory=list)
    """Steps that nobody has looked at yet: their number from 1, learning rate and loss."""
    loss_read: float = 0.0
    """What ``loss`` was found to be at the last look."""
    full: int = 0
    """Samples of a step that is not the last of its epoch."""

    @classmethod
    def beginning(cls, device: torch.device) -> EpochProgress:
        """Before the first step."""
        return cls(torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))

    def record_step(self, loss: Tensor, hits: Tensor, samples: int) -> None:
        """A step over so many samples: its mean loss and its hits."""
        self.loss += loss * samples
        self.hits += hits
        self.counted += samples
        self.recent.append((self.steps + 1, self.rate or 0.0, loss.clone()))

    def first_nonfinite(self) -> tuple[int, float, float] | None:
        """The first step whose loss is not finite, of those not looked at yet: its number, learning rate and loss."""
        recent, self.recent = self.recent, []
        self.loss_read = float(self.loss)
        if not recent or math.isfinite(self.loss_read):
            return None
        losses = torch.stack([loss for _, _, loss in recent]).tolist()
        wrong = (n for n, loss in enumerate(losses) if not math.isfinite(loss))
        number = next(wrong, len(losses) - 1)  # each may be finite where their sum is not
        return recent[number][0], recent[number][1], losses[number]

    def save_rng(self) -> None:
        """Note the global random state, to be able to go on from here."""
        self.draws = capture_rng(self.loss.device)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, after :meth:`save_rng`."""
        kept = ("loss", "hits", "steps", "samples", "counted", "skipped", "rate", "seconds", "draws")
        return {name: getattr(self, name) for name in kept}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> EpochProgress:
        """The epoch that a checkpoint holds."""
        return cls(**{**state, "loss": state["loss"].to(device), "hits": state["hits"].to(device)})
