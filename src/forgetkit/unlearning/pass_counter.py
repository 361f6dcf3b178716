"""How many samples a network is run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class PassCounter:
    """Counts samples that go through a network: forward, and backward for gradients.

    Whoever runs the network counts. A sample that goes through twice counts twice.
    """

    forward: int = 0
    backward: int = 0

    def add(self, forward: int = 0, backward: int = 0) -> None:
        """Count some more."""
        self.forward += forward
        self.backward += backward

    def going_forward(self, batches: Iterable[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
        """The batches, for a network that is run on each as it is read."""
        for inputs, targets in batches:
            self.add(forward=len(targets))
            yield inputs, targets
