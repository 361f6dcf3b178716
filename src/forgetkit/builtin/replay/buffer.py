"""Buffered replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from forgetkit.contracts import Samples


@dataclass(frozen=True)
class Buffer:
    """Keep a few samples, drawn at random.

    ``rule=reservoir`` keeps ``size`` (from 1) samples in all: after any number of mega-batches they
    are a uniform draw, without replacement, from everything seen. ``rule=grow`` keeps ``size`` more
    of each mega-batch, and all it kept before, as the LURE code does (but no sample twice). Where
    there are fewer than ``size``, all are kept. Sources: 186 from Ramkumar et al., 2023, table 2,
    which leaves the rule open; reservoir sampling from Vitter, 1985, here a mega-batch at a time.
    """

    size: Annotated[int, Field(ge=1)] = 186
    rule: Literal["reservoir", "grow"] = "reservoir"

    def retain(self, kept: Samples, arrived: Samples, rng: np.random.Generator) -> NDArray[np.int64]:
        """The ids of the buffer, in ascending order; a reservoir needs ``kept.seen``."""
        old, new = len(kept), min(self.size, len(arrived))
        if self.rule == "reservoir":
            old, new = self._shares(kept, arrived, rng)
        chosen = [rng.choice(kept.ids, old, replace=False), rng.choice(arrived.ids, new, replace=False)]
        return np.unique(np.concatenate(chosen))

    def _shares(self, kept: Samples, arrived: Samples, rng: np.random.Generator) -> tuple[int, int]:
        """How many of the reservoir come from the kept and how many from the arrived.

        A uniform draw from all that was seen holds a hypergeometric number of old samples. Those
        that are kept are themselves a uniform draw from the old, so any of them stand for the rest.
        """
        total = min(self.size, kept.seen + len(arrived))
        old = min(int(rng.hypergeometric(kept.seen, len(arrived), total)), len(kept))
        return old, min(total - old, len(arrived))
