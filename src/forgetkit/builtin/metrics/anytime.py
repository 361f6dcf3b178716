"""Mean anytime error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forgetkit.contracts import MegaBatchResult


@dataclass(frozen=True)
class MeanAnytimeError:
    """Test error averaged over the mega-batches: the cumulative error rate as a fraction.

    In [0, 1]; unlike cer it can be compared across streams and data sets.

    Formula: Σᵢ eᵢ / Σᵢ nᵢ, with eᵢ errors among the nᵢ test samples after mega-batch i.

    Source: equation 4 of Ramkumar et al., 2023, divided by its maximum.
    """

    def compute(self, rows: Sequence[MegaBatchResult]) -> float | None:
        """Return the fraction; None without test samples."""
        tested = sum(row.test_samples for row in rows)
        return sum(row.test_errors for row in rows) / tested if tested else None
