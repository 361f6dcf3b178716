"""Cumulative error rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forgetkit.contracts import MegaBatchResult


@dataclass(frozen=True)
class CumulativeErrors:
    """Test errors summed over the mega-batches: the paper's cumulative error rate.

    A count despite its name, from 0 to mega-batches × test samples; lower is better.

    Formula: Σᵢ eᵢ, with eᵢ the test errors after mega-batch i.

    Source: equation 4 of Ramkumar et al., 2023.
    """

    def compute(self, rows: Sequence[MegaBatchResult]) -> int:
        """Return the sum; 0 without rows."""
        return sum(row.test_errors for row in rows)
