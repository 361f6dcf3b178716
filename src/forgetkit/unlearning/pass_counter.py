"""How many samples a network is run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from forgetkit.unlearning.batches import count_samples


@dataclass
class PassCounter:
    """Counts samples that go through a network: forward, and backward for gradients.

    The code that runs the network counts. A sample that goes through twice counts twice.
    """

    forward: int = 0
    backward: int = 0

    def add(self, forward: int = 0, backward: int = 0) -> None:
        """Count more samples."""
        self.forward += forward
        self.backward += backward

    def count_forward(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches and count each as a forward pass."""
        for batch in batches:
            self.add(forward=count_samples(batch))
            yield batch
