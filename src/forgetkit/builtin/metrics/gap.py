"""Generalisation gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from forgetkit.contracts import MegaBatchResult


@dataclass(frozen=True)
class GeneralizationGap:
    """Training minus validation accuracy, averaged over the mega-batches.

    A fraction in [-1, 1]. The paper defines the gap of a network but does not say which of a run's
    networks its tables show; the mean weights all mega-batches equally.

    Formula: (1 / t) Σᵢ (training accuracy − validation accuracy after mega-batch i), over t mega-batches.

    Source: Ramkumar et al., 2023, section 4.
    """

    def compute(self, rows: Sequence[MegaBatchResult]) -> float | None:
        """Return the mean; None without rows, or if a mega-batch has no validation samples."""
        gaps = [row.generalization_gap for row in rows]
        known = [gap for gap in gaps if gap is not None]
        return fmean(known) if known and len(known) == len(gaps) else None
