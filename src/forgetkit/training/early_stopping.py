"""Early stopping and the choice of the epoch whose weights are carried on."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from forgetkit.contracts import Carry


@dataclass
class EarlyStopping:
    """Follows validation accuracy through the epochs of one mega-batch.

    An epoch is better if it beats the best so far by more than ``min_delta`` (a fraction of one); of equal ones the
    earliest is best.
    """

    carry: Carry
    patience: int
    min_delta: float
    epoch: int = 0
    accuracy: float | None = None
    waited: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def needs_validation(self) -> bool:
        """Whether validation accuracy is needed after each epoch."""
        return self.carry == "best-val" or self.patience > 0

    @property
    def should_stop(self) -> bool:
        """Whether ``patience`` epochs have passed without a better one."""
        return 0 < self.patience <= self.waited

    def update(self, epoch: int, accuracy: float, model: nn.Module) -> None:
        """Take the validation accuracy of an epoch into account."""
        if self.accuracy is not None and accuracy <= self.accuracy + self.min_delta:
            self.waited += 1
            return
        self.epoch, self.accuracy, self.waited = epoch, accuracy, 0
        if self.carry == "best-val":
            self.weights = copy.deepcopy(model.state_dict())

    def restore_best(self, model: nn.Module, last: int) -> int:
        """Load the weights to carry on into ``model``; return their epoch."""
        if self.carry == "last":
            return last
        model.load_state_dict(self.weights)
        return self.epoch

    def state(self) -> dict[str, Any]:
        """The part that a checkpoint holds."""
        return {"epoch": self.epoch, "accuracy": self.accuracy, "waited": self.waited, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        for name, value in state.items():
            setattr(self, name, value)
