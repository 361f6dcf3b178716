"""Buffered replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from forgetkit.contracts import Samples
from forgetkit.errors import OptionError


@dataclass(frozen=True)
class Buffer:
    """Keep a few samples, drawn at random.

    Formula: reservoir: after any number of mega-batches, a uniform draw of min(size, seen) from everything seen.

    size: training samples: in total (reservoir), or of each mega-batch (the other rules); all if there are fewer.
    val_size: validation samples; none: as many as size.
    rule: which samples are kept.
        reservoir: a uniform draw, without replacement, from everything seen;
        per-mega-batch: size more of each mega-batch, and all that were kept before;
        lure: size more from the mega-batch and the buffer together; a sample of the buffer may be drawn again and then
        counts twice, as in the LURE code.

    Cost: training on the kept samples.

    Source: 186 from Ramkumar et al., 2023, table 2, which leaves the rule open; reservoir sampling from Vitter, 1985,
    here a mega-batch at a time.
    """

    size: Annotated[int, Field(ge=1)] = 186
    val_size: Annotated[int, Field(ge=1)] | None = None
    rule: Literal["reservoir", "per-mega-batch", "lure"] = "reservoir"

    @property
    def may_repeat(self) -> bool:
        """Whether a sample may be kept twice."""
        return self.rule == "lure"

    @property
    def uniform(self) -> bool:
        """Whether each sample seen is kept with the same probability."""
        return self.rule == "reservoir"

    @property
    def capacity(self) -> int | None:
        """How many training samples are kept at most; None for the rules that grow with each mega-batch."""
        return self.size if self.rule == "reservoir" else None

    def check(self, arriving: Sequence[int]) -> None:
        """Raise ``OptionError`` if the buffer is larger than the stream."""
        if self.size > sum(arriving):
            raise OptionError(
                f"buffer: size={self.size} is more than the {sum(arriving)} training samples of the whole stream: "
                "choose a smaller one, or use full"
            )

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the ids of the buffer, in ascending order; a reservoir needs ``buffer.seen``."""
        size = self.size if arrivals.role == "train" or self.val_size is None else self.val_size
        if self.rule == "lure":
            candidates = np.concatenate([buffer.ids, arrivals.ids])
            drawn = rng.choice(candidates, min(size, len(candidates)), replace=False)
            return np.sort(np.concatenate([buffer.ids, drawn]))
        old, new = len(buffer), min(size, len(arrivals))
        if self.rule == "reservoir":
            old, new = _shares(size, buffer, arrivals, rng)
        chosen = [rng.choice(buffer.ids, old, replace=False), rng.choice(arrivals.ids, new, replace=False)]
        return np.unique(np.concatenate(chosen))


def _shares(size: int, kept: Samples, arrived: Samples, rng: np.random.Generator) -> tuple[int, int]:
    """How many samples of the reservoir are kept ones, and how many have just arrived.

    A uniform draw from everything seen holds a hypergeometric number of old samples. The kept
    samples are a uniform draw from the old ones, so any of them represent the rest.
    """
    total = min(size, kept.seen + len(arrived))
    old = min(int(rng.hypergeometric(kept.seen, len(arrived), total)), len(kept))
    return old, min(total - old, len(arrived))
