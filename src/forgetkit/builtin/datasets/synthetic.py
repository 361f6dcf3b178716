"""Synthetic images, for tests and first steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from forgetkit.contracts import Data, DataSplit, LoadContext
from forgetkit.seeding import Seeds

_PIXELS_PER_UNIT = np.float32(1 / 8)
"""One standard deviation of the prototypes in [0, 1]: four of them fit on either side of 0.5."""


@dataclass(frozen=True)
class Synthetic:
    """Synthetic images: a random prototype per class, plus Gaussian noise.

    A pixel is ``0.5 + (prototype + noise × gaussian) / 8``, clipped into [0, 1], where the prototypes
    are standard normal: at ``noise=1`` noise and signal are equally strong. Inputs are ``float32``
    of shape ``(n, channels, size, size)``. The classes are balanced to within one sample, in an
    order shuffled by ``seed``; the run's own seed does not change the data.

    ``samples``: how many for training, at least one per class.
    ``test``: how many for testing, at least one per class.
    ``classes``: how many classes, and so prototypes.
    ``size``: height and width in pixels.
    ``channels``: how many channels, 1 for grey and 3 for colour.
    ``noise``: the noise's standard deviation in units of the prototypes'.
    ``seed``: the seed of the data, independent of the run's seed.

    Source: our own.
    """

    samples: Annotated[int, Field(ge=1)] = 2000
    test: Annotated[int, Field(ge=1)] = 500
    classes: Annotated[int, Field(ge=2)] = 10
    size: Annotated[int, Field(ge=1)] = 8
    channels: Annotated[int, Field(ge=1)] = 3
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for option in ("samples", "test"):
            if getattr(self, option) < self.classes:
                raise ValueError(
                    f"{option}={getattr(self, option)} is less than classes={self.classes}, "
                    "and every class needs a sample"
                )

    def load(self, context: LoadContext) -> Data:
        """Draw both parts: the same options give the same numbers."""
        seeds = Seeds(self.seed).within("synthetic")
        shape = (self.classes, self.channels, self.size, self.size)
        prototypes = seeds.numpy("prototypes").standard_normal(shape, dtype=np.float32)
        return Data(
            # Each part has a generator of its own, so that neither's size changes the other.
            train=self._part(self.samples, prototypes, seeds.numpy("train")),
            test=self._part(self.test, prototypes, seeds.numpy("test")),
            classes=tuple(str(label) for label in range(self.classes)),
        )

    def _part(self, n: int, prototypes: NDArray[np.float32], rng: np.random.Generator) -> DataSplit:
        labels = rng.permutation(np.arange(n, dtype=np.int64) % self.classes)
        inputs = rng.standard_normal((n, *prototypes.shape[1:]), dtype=np.float32)
        inputs *= np.float32(self.noise)
        inputs += prototypes[labels]
        inputs *= _PIXELS_PER_UNIT
        inputs += np.float32(0.5)
        return DataSplit(np.clip(inputs, 0, 1, out=inputs), labels)
