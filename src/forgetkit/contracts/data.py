"""Samples, as the data sets give them and as the replay strategies see them."""

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

    ``inputs`` is an array (a memory map will do) of shape ``(n, channels, height, width)`` for
    images or ``(n, features)``; ``uint8`` for pixels in 0..255, which the stream turns into
    [0, 1], or ``float32``, which is taken as it is. ``labels`` are ``int64`` of shape ``(n,)``
    in ``0 .. classes - 1``.
    """

    inputs: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: both parts, the names of the classes, and the augmentation that suits it.

    ``remarks`` are what the user should know about how the data was read, a sentence each; a run warns of
    them. ``provenance`` holds the details as JSON can hold them: where samples come from, how many were
    taken, passed over and skipped. The manifest records it; two data sets that differ in it alone are equal.
    """

    train: DataSplit
    test: DataSplit
    classes: tuple[str, ...]
    augment: Augmentation = "none"
    remarks: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Samples:
    """Sample ids and their labels: all that a replay strategy ever sees.

    ``ids`` and ``labels`` are ``int64`` of shape ``(n,)``; ``seen`` is how many samples the stream
    has brought in all up to these (for those kept: since it began), which a reservoir needs; ``role`` says
    whether they are trained on or validated on.
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

    ``shape`` is one sample's, without the batch; ``classes`` the number of outputs; ``mean`` and
    ``std`` hold one number per channel (or per feature), measured on the training part of the
    first mega-batch and on nothing that comes later.
    """

    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
