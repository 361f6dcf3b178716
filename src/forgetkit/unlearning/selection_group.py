"""Several processes that select together, by counts alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from forgetkit.errors import ComponentError, OptionError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Counts = NDArray[np.int64]
_DONE, _SELECTS, _FAILED = range(3)


class SelectionGroup:
    """Those of a ``torch.distributed`` group, in the order of their ranks; this one alone where there is no group.

    All of them call the same methods in the same order, whatever they hold. As a context it tells the others where
    this one fails before they hear from it otherwise: they fail as well and name it. Where one fails inside a
    selection, or is interrupted, they wait until the group's own timeout ends that.
    """

    def __init__(self, group: ProcessGroup | Literal[True] | None = None) -> None:
        """``True``: all processes. Raises ``OptionError`` where there are none, or this is not one of the group."""
        self._group: ProcessGroup | None = None
        self.rank, self.size = 0, 1
        if group is not None:
            if not (distributed.is_available() and distributed.is_initialized()):
                raise OptionError("group= needs torch.distributed: call torch.distributed.init_process_group() first")
            self._group = distributed.group.WORLD if group is True else group
            self.rank, self.size = distributed.get_rank(self._group), distributed.get_world_size(self._group)
        if self.rank < 0:
            raise OptionError("this process is not in the group given as group=")
        self._awaited = self.size > 1
        """Whether the others wait for this one to say that it selects, is done, or failed."""

    def total(self, counts: Sequence[int] | Counts) -> Counts:
        """The sum over all processes, entry by entry."""
        own = torch.as_tensor(np.asarray(counts, dtype=np.int64))
        if self._group is not None:
            own = own.to("cuda" if distributed.get_backend(self._group) == "nccl" else "cpu")
            distributed.all_reduce(own, group=self._group)
        return own.cpu().numpy()

    def each(self, counts: Sequence[int]) -> Counts:
        """What every process gave, a row for each."""
        table = np.zeros((self.size, len(counts)), np.int64)
        table[self.rank] = counts
        return self.total(table)

    def begin(self, entries: int, doubles: bool, options: str) -> tuple[int, bool]:
        """Before a selection: how many entries there are in all, and whether some of them are float64.

        Raises ``ComponentError`` in all processes where they select by different ``options``.
        """
        table = self._say(_SELECTS, entries, doubles, zlib.crc32(options.encode()))
        if len(set(table[:, 3].tolist())) > 1:
            raise ComponentError(f"the processes of the group select by different options, this one by {options}")
        _, total, float64, _ = table.sum(0).tolist()
        return total, float64 > 0

    def end(self) -> None:
        """After a selection: there may be another."""
        self._awaited = self.size > 1

    def part(self) -> None:
        """All is done here. Raises ``ComponentError`` where it is not elsewhere."""
        self._say(_DONE)

    def _say(self, state: int, entries: int = 0, doubles: bool = False, options: int = 0) -> Counts:
        self._awaited = False
        table = self.each((state, entries, doubles, options))
        others = table[:, 0].tolist()
        if others != [state] * self.size:
            worst = max(others)
            what = "failed; its own message says why" if worst == _FAILED else "selects, and not all others do"
            raise ComponentError(f"process {others.index(worst)} of the group's {self.size} {what}")
        return table

    def __enter__(self) -> SelectionGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and self._awaited:
            self._awaited = False
            self.each((_FAILED, 0, 0, 0))
