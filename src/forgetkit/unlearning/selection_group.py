"""Several processes that select together and exchange only counts."""

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
    """The processes of a ``torch.distributed`` group in the order of their ranks; without a group, this one alone.

    All processes call the same methods in the same order. Used as a context manager, it notifies the other
    processes if this one fails before the next exchange: they fail as well and name it. If a process fails or is
    interrupted inside a selection, the others wait until the group's own timeout.

    Args:
        group: The group; ``True``: all processes.

    Raises:
        OptionError: If ``torch.distributed`` is not initialised, or if this process is not in the group.
    """

    def __init__(self, group: ProcessGroup | Literal[True] | None = None) -> None:
        self._group: ProcessGroup | None = None
        self.rank, self.size = 0, 1
        if group is not None:
            if not (distributed.is_available() and distributed.is_initialized()):
                raise OptionError("group= needs torch.distributed: call torch.distributed.init_process_group() first")
            self._group = distributed.group.WORLD if group is True else group
            self.rank, self.size = distributed.get_rank(self._group), distributed.get_world_size(self._group)
        if self.rank < 0:
            raise OptionError("this process is not in the group given as group=")
        self._others_wait = self.size > 1
        """Whether the others wait for this process to say that it selects, is done, or failed."""

    def total(self, counts: Sequence[int] | Counts) -> Counts:
        """Return the sum over all processes, entry by entry."""
        own = torch.as_tensor(np.asarray(counts, dtype=np.int64))
        if self._group is not None:
            own = own.to("cuda" if distributed.get_backend(self._group) == "nccl" else "cpu")
            distributed.all_reduce(own, group=self._group)
        return own.cpu().numpy()

    def each(self, counts: Sequence[int]) -> Counts:
        """Return the counts of every process, one row per rank."""
        table = np.zeros((self.size, len(counts)), np.int64)
        table[self.rank] = counts
        return self.total(table)

    def begin(self, entries: int, doubles: bool, options: str) -> tuple[int, bool]:
        """Begin a selection: return the total number of entries, and whether any process holds float64.

        Raises:
            ComponentError: In all processes, if their ``options`` differ.
        """
        table = self._announce(_SELECTS, entries, doubles, zlib.crc32(options.encode()))
        if len(set(table[:, 3].tolist())) > 1:
            raise ComponentError(f"the processes of the group select by different options, this one by {options}")
        _, total, float64, _ = table.sum(0).tolist()
        return total, float64 > 0

    def end(self) -> None:
        """End a selection; another one may follow."""
        self._others_wait = self.size > 1

    def finish(self) -> None:
        """Agree that all processes are done; raise ``ComponentError`` if another one failed or still selects."""
        self._announce(_DONE)

    def _announce(self, state: int, entries: int = 0, doubles: bool = False, options: int = 0) -> Counts:
        self._others_wait = False
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
        if isinstance(error, Exception) and self._others_wait:
            self._others_wait = False
            self.each((_FAILED, 0, 0, 0))
