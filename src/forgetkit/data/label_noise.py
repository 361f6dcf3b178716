"""What is done to a training set before it is cut into a stream: few shots of it, noise on its labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import NoiseDraw
from forgetkit.errors import ConfigError
from forgetkit.seeding import Seeds


def few_shots(labels: NDArray[np.int64], classes: Sequence[str], shots: int | None, seeds: Seeds) -> NDArray[np.int64]:
    """Ids of ``shots`` samples of each class, drawn at random, in ascending order; None: of all samples.

    A class's draw is a function of the seed and of the class alone. Raises ``ConfigError`` where one has fewer.
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
    """Labels of which each is redrawn with probability ``rate``, but for the ids in ``clean``.

    Uniformly from all classes (``any``: one in ``classes`` falls on the true one), or from all ``other`` ones.
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
