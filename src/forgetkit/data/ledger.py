"""Who may see what: the only door to the training samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import DataSplit, Role
from forgetkit.errors import LeakError

Ids = NDArray[np.int64]
_AT_ONCE = 1 << 26
"""Bytes of a memory map that are read at one go, and held twice until they are in their places."""


@dataclass(frozen=True, eq=False)
class LazySubset:
    """Samples in an order of their own, of which nothing was read yet but the labels.

    ``read`` gives the samples of the ids it is given, or raises where they may not be read any longer; ``shape`` and
    ``sample_bytes`` are those of one sample's inputs, as they are stored.
    """

    ids: Ids
    labels: NDArray[np.int64]
    shape: tuple[int, ...]
    sample_bytes: int
    read: Callable[[Ids], DataSplit]

    @classmethod
    def whole(cls, part: DataSplit) -> LazySubset:
        """All samples of a part that nobody guards."""
        return cls.of(part, np.arange(len(part)), part.labels, lambda ids: take(part, ids))

    @classmethod
    def of(cls, source: DataSplit, ids: Ids, labels: NDArray[np.int64], read: Callable[[Ids], DataSplit]) -> LazySubset:
        """Those of ``ids`` in ``source``, as ``read`` gives them."""
        shape = source.inputs.shape[1:]
        return cls(ids, labels, shape, source.inputs.dtype.itemsize * int(np.prod(shape)), read)

    def __len__(self) -> int:
        return len(self.ids)


class Ledger:
    """Hands out training samples that are revealed and not given up, each in its own role.

    A sample is read as ``train`` or as ``val``, never as both. Reading one that has not arrived,
    that the replay strategy gave up, or that has the other role raises ``LeakError``.
    """

    def __init__(self, source: DataSplit) -> None:
        self._source = source
        self._open = {role: np.zeros(len(source), dtype=bool) for role in ("train", "val")}
        self._opened = {role: np.empty(0, dtype=np.int64) for role in ("train", "val")}

    def reveal(self, role: Role, ids: Ids) -> None:
        """From now on ``ids`` may be read in this role."""
        self._open[role][ids] = True
        self._opened[role] = np.concatenate([self._opened[role], ids])

    def give_up_all_but(self, role: Role, ids: Ids) -> None:
        """From now on only ``ids`` may be read in this role; none that was closed opens again."""
        self._require(role, ids)
        self._open[role][self._opened[role]] = False  # those alone, however many samples there are
        self._open[role][ids] = True
        self._opened[role] = ids.copy()

    def labels(self, role: Role, ids: Ids) -> NDArray[np.int64]:
        """The labels of ``ids``."""
        self._require(role, ids)
        return self._source.labels[ids]

    def read(self, role: Role, ids: Ids) -> DataSplit:
        """The samples of ``ids``, in that order."""
        self._require(role, ids)
        return take(self._source, ids)

    def excerpt(self, role: Role, ids: Ids) -> LazySubset:
        """The samples of ``ids``, each to be read when it is needed: as long as it may be."""
        return LazySubset.of(self._source, ids, self.labels(role, ids), lambda some: self.read(role, some))

    def _require(self, role: Role, ids: Ids) -> None:
        closed = ids[~self._open[role][ids]]
        if len(closed):
            raise LeakError(
                f"sample {closed[0]} may not be read for {_purpose(role)}: "
                "it has not arrived, was given up, or belongs to the other part"
            )


def take(source: DataSplit, ids: Ids) -> DataSplit:
    """A copy of the samples of ``ids``. A memory map is read, piece by piece, in the order it lies on the disk."""
    if not isinstance(source.inputs, np.memmap):
        return replace(source, inputs=source.inputs[ids], labels=source.labels[ids])
    inputs = np.empty((len(ids), *source.inputs.shape[1:]), source.inputs.dtype)
    step = max(1, _AT_ONCE // max(1, source.inputs[:1].nbytes))
    for start in range(0, len(ids), step):
        order = start + np.argsort(ids[start : start + step], kind="stable")
        inputs[order] = source.inputs[ids[order]]
    return replace(source, inputs=inputs, labels=source.labels[ids])


def _purpose(role: Role) -> str:
    return "training" if role == "train" else "validation"
