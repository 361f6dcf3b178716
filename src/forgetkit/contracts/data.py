"""Values about data: data sets, sample ids, the shape of a network's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from forgetkit.contracts.literals import Augmentation, Role


@dataclass(frozen=True, eq=False)
class DataSplit:
    """The training or the test part of a data set.

    Attributes:
        inputs: ``(n, channels, height, width)`` for images or ``(n, features)``; an array or a memory map. ``uint8``
            are pixels in 0..255, which a run scales to [0, 1]; ``float32`` is used as it is.
        labels: int64 ``(n,)`` in ``0 .. classes - 1``.
    """

    inputs: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set.

    Attributes:
        train: The training part.
        test: The test part.
        classes: The names of the classes.
        augment: The augmentation that ``--augment auto`` uses.
        remarks: Sentences on how the data was read; a run warns of them.
        provenance: JSON values on where the samples come from, and how many were used and skipped. The manifest
            records them; they are no part of the data's identity.
    """

    train: DataSplit
    test: DataSplit
    classes: tuple[str, ...]
    augment: Augmentation = "none"
    remarks: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Samples:
    """Sample ids and labels: all that a replay strategy sees.

    Attributes:
        ids: int64 ``(n,)``.
        labels: int64 ``(n,)``.
        seen: The number of samples of this role that these stand for: in a buffer, all that the stream has brought
            so far; in a mega-batch, its own. A reservoir needs it.
        role: ``train`` or ``val``.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    seen: int
    role: Role = "train"

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Inputs:
    """What a network is built for.

    Attributes:
        shape: The shape of one sample, without the batch dimension.
        classes: The number of outputs.
        mean: One number per channel or feature, measured on the training part of the first mega-batch.
        std: Standard deviations, as ``mean``.
    """

    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
