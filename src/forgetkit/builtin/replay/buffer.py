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

    size: training samples: in all (reservoir), or of each mega-batch (the other rules); all where there are fewer.
    val_size: validation samples; none: as many as size.
    rule: which are kept.
        reservoir: a uniform draw, without replacement, from everything seen;
        per-mega-batch: that many more of each mega-batch, and all that were kept before;
        lure: that many more out of the mega-batch and the buffer together, so that one kept before may be drawn again
        and then counts twice, as the LURE code does.

    Cost: none, but training on what is kept.

    Source: 186 from Ramkumar et al., 2023, table 2, which leaves the rule open; reservoir sampling from Vitter, 1985,
    here a mega-batch at a time.
    """

    size: Annotated[int, Field(ge=1)] = 186
    val_size: Annotated[int, Field(ge=1)] | None = None
    rule: Literal["reservoir", "per-mega-batch", "lure"] = "reservoir"

    @property
    def may_repeat(self) -> bool:
        """Whether a sample may be kept twice on purpose."""
        return self.rule == "lure"

    @property
    def uniform(self) -> bool:
        """Whether each sample seen so far is kept with the same probability."""
        return self.rule == "reservoir"

    @property
    def capacity(self) -> int | None:
        """How many training samples are kept at most; the other rules keep more with each mega-batch."""
        return self.size if self.rule == "reservoir" else None

    def check(self, arriving: Sequence[int]) -> None:
        """``OptionError`` where the buffer would hold more than ever arrives."""
        if self.size > sum(arriving):
            raise OptionError(
                f"buffer: size={self.size} is more than the {sum(arriving)} training samples of the whole stream: "
                "choose a smaller one, or use full"
            )

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> NDArray[np.int64]:
        """The ids to keep, in ascending order; a reservoir needs ``buffer.seen``."""
        size = self.size if arrivals.role == "train" or self.val_size is None else self.val_size
        if self.rule == "lure":
            at_hand = np.concatenate([buffer.ids, arrivals.ids])
            drawn = rng.choice(at_hand, min(size, len(at_hand)), replace=False)
            return np.sort(np.concatenate([buffer.ids, drawn]))
        old, new = len(buffer), min(size, len(arrivals))
        if self.rule == "reservoir":
            old, new = _shares(size, buffer, arrivals, rng)
        chosen = [rng.choice(buffer.ids, old, replace=False), rng.choice(arrivals.ids, new, replace=False)]
        return np.unique(np.concatenate(chosen))


def _shares(size: int, kept: Samples, arrived: Samples, rng: np.random.Generator) -> tuple[int, int]:
    """How many of the reservoir come from the kept and how many from the arrived.

    A uniform draw from all that was seen holds a hypergeometric number of old samples. Those
    that are kept are themselves a uniform draw from the old, so any of them stand for the rest.
    """
    total = min(size, kept.seen + len(arrived))
    old = min(int(rng.hypergeometric(kept.seen, len(arrived), total)), len(kept))
    return old, min(total - old, len(arrived))
