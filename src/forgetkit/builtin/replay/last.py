"""Replay of the previous mega-batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Samples


@dataclass(frozen=True)
class Last:
    """Keep the latest mega-batch: train on the previous mega-batch and the current one.

    Formula: kept ← arrived.

    Cost: from the second mega-batch on, an epoch is twice as long as without replay.

    Source: ``one_replay`` of the LURE code.
    """

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the ids that arrived, in ascending order."""
        return np.unique(arrivals.ids)
