"""The learning rate, a function of how much of a mega-batch is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from forgetkit.contracts import ScheduleKind


@dataclass(frozen=True)
class Schedule:
    """A learning rate for each moment of a mega-batch; it starts anew with the next.

    ``total`` and ``milestones`` are in epochs, or in samples where those are what is given out. ``step``: lr ·
    gamma^(milestones passed). ``cosine``: lr / 2 · (1 + cos(π · done / total)).
    """

    kind: ScheduleKind
    lr: float
    total: int
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def at(self, epoch: int) -> float:
        """The rate of ``epoch`` (from 1), where all is in epochs."""
        return self.after(epoch - 1)

    def after(self, done: int) -> float:
        """The rate once ``done`` is done. There is no scheduler whose state could be resumed wrongly."""
        match self.kind:
            case "step":
                return float(self.lr * self.gamma ** sum(done >= milestone for milestone in self.milestones))
            case "cosine":
                return self.lr / 2 * (1 + math.cos(math.pi * done / self.total))
            case "constant":
                return self.lr


def share_milestones(samples: int) -> tuple[int, int]:
    """The milestones of a budget of samples: where 40 % and 80 % of them are done."""
    return -(-2 * samples // 5), -(-4 * samples // 5)
