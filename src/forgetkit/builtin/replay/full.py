"""Full replay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Samples


@dataclass(frozen=True)
class Full:
    """Keep everything: train on all samples that have arrived so far.

    Formula: kept ← kept ∪ arrived.

    Cost: an epoch grows with the stream; t mega-batches take as long as t (t + 1) / 2 without replay.

    Source: Ramkumar et al., 2023, section 3.
    """

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return all ids, in ascending order."""
        return np.union1d(buffer.ids, arrivals.ids)
