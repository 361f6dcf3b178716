"""How long a mega-batch is trained."""

from __future__ import annotations


def epoch_sizes(pool: int, epochs: int, samples: int | None) -> tuple[int, ...]:
    """How many of ``pool`` samples each epoch trains on: all of them, ``epochs`` times over, or ``samples`` altogether.

    Then the last epoch is cut; where a single sample would be left for it, the one before leaves it another, because
    batch normalisation cannot train on one.
    """
    if samples is None:
        return (pool,) * epochs
    whole, rest = divmod(samples, pool)
    sizes = [pool] * whole + [rest] * (rest > 0)
    if rest == 1 and whole and pool > 2:
        sizes[-2:] = [pool - 1, 2]
    return tuple(sizes)
