"""Cut a test part from the training part, for data without one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from forgetkit.errors import DataError
from forgetkit.seeding import Seeds


def stratified_split(
    labels: NDArray[np.int64], fraction: float, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut samples into a training and a test part, class by class.

    A class of n samples gives ``round(fraction * n)`` of them to the test part, at least one if it has two, and
    keeps at least one. Its draw is a function of the seed and the class alone.

    Args:
        labels: class numbers, ``int64`` of shape ``(n,)``.
        fraction: fraction of each class for the test part, in (0, 1).
        seed: seed of the draw, independent of the run's seed.

    Returns:
        The ids of the training and of the test samples, each in ascending order.

    Raises:
        DataError: if no class has two samples, so that the test part would be empty.
    """
    test = np.zeros(len(labels), dtype=bool)
    seeds, share = Seeds(seed).within("test-fraction"), Fraction(str(fraction))
    for label in np.unique(labels):
        ids = np.flatnonzero(labels == label)
        wanted = min(max(1, round(share * len(ids))), len(ids) - 1)
        test[seeds.numpy(int(label)).choice(ids, wanted, replace=False)] = True
    if not test.any():
        raise DataError(f"test-fraction={fraction}: every class has a single sample, so none is left to test on")
    return np.flatnonzero(~test), np.flatnonzero(test)
