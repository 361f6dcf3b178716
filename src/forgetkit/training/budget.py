"""How long a mega-batch is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochSizes:
    """How many samples each epoch of a mega-batch trains on: counts and no list, since epochs may be any number.

    ``whole`` epochs take all ``pool`` samples; those in ``rest`` come last and are shorter.
    """

    pool: int
    whole: int
    rest: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """The number of epochs."""
        return self.whole + len(self.rest)

    @property
    def samples(self) -> int:
        """The samples of all epochs together."""
        return self.before(self.count + 1)

    def of(self, epoch: int) -> int:
        """The samples of an epoch, counted from 1."""
        return self.pool if epoch <= self.whole else self.rest[epoch - self.whole - 1]

    def before(self, epoch: int) -> int:
        """The samples of all epochs before this one."""
        return self.pool * min(epoch - 1, self.whole) + sum(self.rest[: max(0, epoch - 1 - self.whole)])

    def __iter__(self) -> Iterator[int]:
        return itertools.chain(itertools.repeat(self.pool, self.whole), self.rest)


def epoch_sizes(pool: int, epochs: int, samples: int | None) -> EpochSizes:
    """How many of ``pool`` samples each epoch trains on: all of them, ``epochs`` times over, or ``samples`` altogether.

    Then the last epoch is cut; where a single sample would be left for it, the one before leaves it another, because
    batch normalisation cannot train on one.
    """
    if samples is None:
        return EpochSizes(pool, epochs)
    whole, rest = divmod(samples, pool)
    if rest == 1 and whole and pool > 2:
        return EpochSizes(pool, whole - 1, (pool - 1, 2))
    return EpochSizes(pool, whole, (rest,) if rest else ())
