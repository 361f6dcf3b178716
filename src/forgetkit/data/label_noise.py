"""Changes to a training set before it is cut into mega-batches: few shots per class, and label noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import NoiseDraw
from forgetkit.errors import ConfigError
from forgetkit.seeding import Seeds


def few_shots(labels: NDArray[np.int64], classes: Sequence[str], shots: int | None, seeds: Seeds) -> NDArray[np.int64]:
    """Draw ``shots`` sample ids per class at random, in ascending order; None: return all ids.

    The draw of a class is a function of the seed and the class alone. Raises ``ConfigError`` if a class has fewer.
    """
    if shots is None:
        return np.arange(len(labels))
    drawn = []
    for label, name in enumerate(classes):
        ids = np.flatnonzero(labels == label)
        if shots > len(ids):
            raise ConfigError(
                f"--shots {shots}: the class {name} has {len(ids)} training samples; use {len(ids)} or fewer"
            )
        drawn.append(seeds.numpy("shots", label).choice(ids, shots, replace=False))
    return np.sort(np.concatenate(drawn))


def add_label_noise(
    labels: NDArray[np.int64], classes: int, rate: float, draw: NoiseDraw, clean: NDArray[np.int64], seeds: Seeds
) -> NDArray[np.int64]:
    """Redraw each label with probability ``rate``, except those of the ids in ``clean``.

    The new label is uniform over all classes (``any``: the true one included), or over the ``other`` classes.
    """
    if rate == 0:
        return labels
    if draw == "other" and classes == 1:
        raise ConfigError("--label-noise-draw other: there is one class, and no other to draw")
    rng = seeds.numpy("label-noise")
    redrawn = rng.random(len(labels)) < rate
    redrawn[clean] = False
    if draw == "any":
        drawn = rng.integers(0, classes, len(labels))
    else:
        drawn = (labels + rng.integers(1, max(classes, 2), len(labels))) % classes
    return np.where(redrawn, drawn, labels)
