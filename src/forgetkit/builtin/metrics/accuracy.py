"""Test accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forgetkit.contracts import MegaBatchResult


@dataclass(frozen=True)
class FinalAccuracy:
    """Accuracy on the test part after the last mega-batch.

    Formula: (test samples classified right after mega-batch t) / (test samples), for a stream of t mega-batches.

    Source: Ramkumar et al., 2023, section 4.
    """

    def compute(self, rows: Sequence[MegaBatchResult]) -> float | None:
        """Return the accuracy of the last row; None without rows."""
        return rows[-1].test_accuracy if rows else None
