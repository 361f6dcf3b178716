"""The learning rate, a function of the progress in a mega-batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from forgetkit.contracts import ScheduleKind


@dataclass(frozen=True)
class Schedule:
    """The learning rate within a mega-batch; it starts anew with the next.

    ``total`` and ``milestones`` are in epochs, or in samples if ``--samples`` is given. ``step``: lr ·
    gamma^(milestones passed). ``cosine``: lr / 2 · (1 + cos(π · done / total)).
    """

    kind: ScheduleKind
    lr: float
    total: int
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def at(self, epoch: int) -> float:
        """The rate of ``epoch`` (from 1), if ``total`` is in epochs."""
        return self.after(epoch - 1)

    def after(self, done: int) -> float:
        """The rate after ``done`` epochs or samples."""
        match self.kind:
            case "step":
                return float(self.lr * self.gamma ** sum(done >= milestone for milestone in self.milestones))
            case "cosine":
                return self.lr / 2 * (1 + math.cos(math.pi * done / self.total))
            case "constant":
                return self.lr


def share_milestones(samples: int) -> tuple[int, int]:
    """The milestones of a budget of samples: 40 % and 80 % of it, rounded up."""
    return -(-2 * samples // 5), -(-4 * samples // 5)
