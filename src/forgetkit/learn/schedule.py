"""The learning rate, a function of the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from forgetkit.contracts import ScheduleKind


@dataclass(frozen=True)
class Schedule:
    """A learning rate for each epoch of a mega-batch; it starts anew with the next.

    ``step``: lr · gamma^(milestones passed). ``cosine``: lr / 2 · (1 + cos(π (e − 1) / epochs)) in epoch e.
    """

    kind: ScheduleKind
    lr: float
    epochs: int
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def at(self, epoch: int) -> float:
        """The rate of ``epoch`` (from 1). There is no scheduler whose state could be resumed wrongly."""
        match self.kind:
            case "step":
                return float(self.lr * self.gamma ** sum(epoch > milestone for milestone in self.milestones))
            case "cosine":
                return self.lr / 2 * (1 + math.cos(math.pi * (epoch - 1) / self.epochs))
            case "constant":
                return self.lr
