"""Who may see what: the only door to the training samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Part, Role
from forgetkit.errors import LeakError


class Ledger:
    """Hands out training samples that are revealed and not given up, each in its own role.

    A sample is read as ``train`` or as ``val``, never as both. Reading one that has not arrived,
    that the replay strategy gave up, or that has the other role raises ``LeakError``.
    """

    def __init__(self, source: Part) -> None:
        self._source = source
        self._open = {role: np.zeros(len(source), dtype=bool) for role in ("train", "val")}
        self._opened = {role: np.empty(0, dtype=np.int64) for role in ("train", "val")}

    def reveal(self, role: Role, ids: NDArray[np.int64]) -> None:
        """From now on ``ids`` may be read in this role."""
        self._open[role][ids] = True
        self._opened[role] = np.concatenate([self._opened[role], ids])

    def give_up_all_but(self, role: Role, ids: NDArray[np.int64]) -> None:
        """From now on only ``ids`` may be read in this role; none that was closed opens again."""
        self._require(role, ids)
        self._open[role][self._opened[role]] = False  # those alone, however many samples there are
        self._open[role][ids] = True
        self._opened[role] = ids.copy()

    def labels(self, role: Role, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels of ``ids``."""
        self._require(role, ids)
        return self._source.labels[ids]

    def read(self, role: Role, ids: NDArray[np.int64]) -> Part:
        """The samples of ``ids``, in that order."""
        self._require(role, ids)
        return replace(self._source, inputs=self._source.inputs[ids], labels=self._source.labels[ids])

    def _require(self, role: Role, ids: NDArray[np.int64]) -> None:
        closed = ids[~self._open[role][ids]]
        if len(closed):
            raise LeakError(
                f"sample {closed[0]} may not be read for {_purpose(role)}: "
                "it has not arrived, was given up, or belongs to the other part"
            )


def _purpose(role: Role) -> str:
    return "training" if role == "train" else "validation"
