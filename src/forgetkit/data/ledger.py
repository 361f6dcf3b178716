"""The ledger: the only way to the training samples. It raises ``LeakError`` for samples that may not be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import DataSplit, Role
from forgetkit.errors import LeakError

Ids = NDArray[np.int64]
_AT_ONCE = 1 << 26
"""Bytes of a memory map that are read at once; they take memory twice until they are sorted."""


@dataclass(frozen=True, eq=False)
class LazySubset:
    """Samples of which only the labels are read.

    ``read`` returns the samples of some of the ``ids``, or raises ``LeakError`` if they may not be read any longer.
    ``shape`` and ``sample_bytes`` are those of one sample's inputs as stored.
    """

    ids: Ids
    labels: NDArray[np.int64]
    shape: tuple[int, ...]
    sample_bytes: int
    read: Callable[[Ids], DataSplit]

    @classmethod
    def whole(cls, part: DataSplit) -> LazySubset:
        """Return all samples of a part that no ledger guards."""
        return cls.of(part, np.arange(len(part)), part.labels, lambda ids: take(part, ids))

    @classmethod
    def of(cls, source: DataSplit, ids: Ids, labels: NDArray[np.int64], read: Callable[[Ids], DataSplit]) -> LazySubset:
        """Return the samples ``ids`` of ``source``, to be read by ``read``."""
        shape = source.inputs.shape[1:]
        return cls(ids, labels, shape, source.inputs.dtype.itemsize * int(np.prod(shape)), read)

    def __len__(self) -> int:
        return len(self.ids)


class Ledger:
    """Hands out the training samples that are revealed and not given up, each in its own role.

    A sample is read as ``train`` or as ``val``, never as both. Reading raises ``LeakError`` for a sample that has not
    arrived, that the replay strategy gave up, or that has the other role.
    """

    def __init__(self, source: DataSplit) -> None:
        self._source = source
        self._readable = {role: np.zeros(len(source), dtype=bool) for role in ("train", "val")}
        self._revealed = {role: np.empty(0, dtype=np.int64) for role in ("train", "val")}

    def reveal(self, role: Role, ids: Ids) -> None:
        """Make ``ids`` readable in this role."""
        self._readable[role][ids] = True
        self._revealed[role] = np.concatenate([self._revealed[role], ids])

    def give_up_all_but(self, role: Role, ids: Ids) -> None:
        """Leave only ``ids`` readable in this role; all of them must be readable now."""
        self._require(role, ids)
        self._readable[role][self._revealed[role]] = False  # only these, however large the data set is
        self._readable[role][ids] = True
        self._revealed[role] = ids.copy()

    def labels(self, role: Role, ids: Ids) -> NDArray[np.int64]:
        """Return the labels of ``ids``."""
        self._require(role, ids)
        return self._source.labels[ids]

    def read(self, role: Role, ids: Ids) -> DataSplit:
        """Return the samples of ``ids``, in that order."""
        self._require(role, ids)
        return take(self._source, ids)

    def excerpt(self, role: Role, ids: Ids) -> LazySubset:
        """Return the samples of ``ids``, each to be read when it is needed, as long as it is readable."""
        return LazySubset.of(self._source, ids, self.labels(role, ids), lambda some: self.read(role, some))

    def _require(self, role: Role, ids: Ids) -> None:
        closed = ids[~self._readable[role][ids]]
        if len(closed):
            raise LeakError(
                f"sample {closed[0]} may not be read for {'training' if role == 'train' else 'validation'}: "
                "it has not arrived, was given up, or belongs to the other part"
            )


def take(source: DataSplit, ids: Ids) -> DataSplit:
    """Copy the samples of ``ids``. A memory map is read in pieces, each in the order of the file."""
    if not isinstance(source.inputs, np.memmap):
        return replace(source, inputs=source.inputs[ids], labels=source.labels[ids])
    inputs = np.empty((len(ids), *source.inputs.shape[1:]), source.inputs.dtype)
    step = max(1, _AT_ONCE // max(1, source.inputs[:1].nbytes))
    for start in range(0, len(ids), step):
        order = start + np.argsort(ids[start : start + step], kind="stable")
        inputs[order] = source.inputs[ids[order]]
    return replace(source, inputs=inputs, labels=source.labels[ids])
