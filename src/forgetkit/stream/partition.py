"""Which sample comes in which mega-batch: a function of the seed and of sizes alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from forgetkit.errors import ConfigError
from forgetkit.seeding import Seeds


@dataclass(frozen=True, eq=False)
class MegaBatch:
    """The sample ids that arrive together; ``index`` counts from 1."""

    index: int
    train: NDArray[np.int64]
    val: NDArray[np.int64]


def partition(samples: int, mega_batches: int, val_fraction: float, seeds: Seeds) -> tuple[MegaBatch, ...]:
    """Cut ``samples`` ids at random into mega-batches whose sizes differ by one at most.

    Inside each, floor(val_fraction · size) ids are set apart for validation (section 4 of the paper).
    Labels play no part. Raises ``ConfigError`` where a mega-batch would have nothing to train on.
    """
    if mega_batches > samples:
        raise ConfigError(
            f"{mega_batches} mega-batches of {samples} training samples leave some empty: "
            f"use --mega-batches {samples} or fewer"
        )
    pieces = np.array_split(seeds.numpy("split").permutation(samples), mega_batches)
    cut = []
    for index, ids in enumerate(pieces, 1):
        val = math.floor(Fraction(str(val_fraction)) * len(ids))
        cut.append(MegaBatch(index, ids[: len(ids) - val], ids[len(ids) - val :]))
    return tuple(cut)


def digest(mega_batches: Sequence[MegaBatch]) -> str:
    """A SHA-256 over every id in its place."""
    sha = hashlib.sha256()
    for mega_batch in mega_batches:
        for ids in (mega_batch.train, mega_batch.val):
            sha.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
    return sha.hexdigest()
