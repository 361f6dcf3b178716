"""The partition into mega-batches: a function of the seed and of sizes alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Split
from forgetkit.errors import ConfigError
from forgetkit.seeding import Seeds


@dataclass(frozen=True, eq=False)
class MegaBatch:
    """The ids of the training and validation samples that arrive together; ``index`` counts from 1."""

    index: int
    train: NDArray[np.int64]
    val: NDArray[np.int64]


def partition(
    ids: NDArray[np.int64], mega_batches: int, val_fraction: float, split: Split, seeds: Seeds
) -> tuple[MegaBatch, ...]:
    """Cut ``ids`` into mega-batches whose sizes differ by at most one; labels play no part.

    Args:
        ids: The sample ids.
        mega_batches: How many there are.
        val_fraction: The fraction that is held out for validation, 0 to 1.
        split: ``"random"`` permutes the ids and holds out the last ⌊val_fraction · size⌋ of each mega-batch (section 4
            of the paper). ``"contiguous"`` keeps their order, holds out the last ⌊val_fraction · n⌋ of all and cuts
            both parts (as the LURE code does).
        seeds: Fix the permutation.

    Raises:
        ConfigError: If a mega-batch would have no training samples.
    """
    if mega_batches > len(ids):
        raise ConfigError(
            f"{mega_batches} mega-batches of {len(ids)} training samples leave some empty: "
            f"use --mega-batches {len(ids)} or fewer"
        )
    fraction = Fraction(str(val_fraction))
    if split == "contiguous":
        stop = len(ids) - math.floor(fraction * len(ids))
        cut = list(zip(np.array_split(ids[:stop], mega_batches), np.array_split(ids[stop:], mega_batches), strict=True))
    else:
        pieces = np.array_split(seeds.numpy("split").permutation(ids), mega_batches)
        stops = [len(piece) - math.floor(fraction * len(piece)) for piece in pieces]
        cut = [(piece[:stop], piece[stop:]) for piece, stop in zip(pieces, stops, strict=True)]
    if not all(len(train) for train, _ in cut):
        raise ConfigError(
            f"--val-fraction {val_fraction} of {len(ids)} training samples in {mega_batches} mega-batches leaves one "
            "nothing to train on: use a smaller fraction or fewer mega-batches"
        )
    return tuple(MegaBatch(index, train, val) for index, (train, val) in enumerate(cut, 1))


def digest(mega_batches: Sequence[MegaBatch]) -> str:
    """Return a SHA-256 over every id in its position."""
    sha = hashlib.sha256()
    for mega_batch in mega_batches:
        for ids in (mega_batch.train, mega_batch.val):
            sha.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
    return sha.hexdigest()
