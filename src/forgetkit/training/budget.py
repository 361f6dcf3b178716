"""The number of samples in each epoch of a mega-batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochSizes:
    """How many samples each epoch of a mega-batch trains on; counts, since a list of all epochs may be long.

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
    """Divide the training into epochs: ``epochs`` times all samples of the pool, or ``samples`` in total.

    With ``samples`` the last epoch is cut. If a single sample were left for it, it gets one more from the epoch before,
    because batch normalisation cannot train on one sample.
    """
    if samples is None:
        return EpochSizes(pool, epochs)
    whole, rest = divmod(samples, pool)
    if rest == 1 and whole and pool > 2:
        return EpochSizes(pool, whole - 1, (pool - 1, 2))
    return EpochSizes(pool, whole, (rest,) if rest else ())
