"""No replay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Samples


@dataclass(frozen=True)
class NoReplay:
    """Keep nothing: train on the current mega-batch alone.

    Formula: kept ← ∅.

    Cost: none.

    Source: Ramkumar et al., 2023, section 3.
    """

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return no ids."""
        return np.empty(0, dtype=np.int64)
