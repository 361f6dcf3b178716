"""Several processes that act together: a selection exchanges counts alone, other steps exchange objects."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from forgetkit.errors import ComponentError, OptionError
from forgetkit.unlearning import wire

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Counts = NDArray[np.int64]
_DONE, _GIVES, _SELECTS, _FAILED = range(4)
_WHAT = {
    _GIVES: "exchanges data, and not all others do",
    _SELECTS: "selects, and not all others do",
    _FAILED: "failed; its own message says why",
}


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
        own = torch.as_tensor(np.asarray(counts, dtype=np.int64), device="cpu")
        if self._group is not None:
            own = own.to(self._device)
            distributed.all_reduce(own, group=self._group)
        return own.cpu().numpy()

    @property
    def _device(self) -> str:
        return "cuda" if self._group is not None and distributed.get_backend(self._group) == "nccl" else "cpu"

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
        """End a selection or an exchange; another one may follow."""
        self._others_wait = self.size > 1

    def exchange(self, payload: bytes, what: str) -> list[bytes]:
        """Return what every process gives, in the order of the ranks; ``what`` says what it is, in messages.

        Raises:
            ComponentError: If another process failed, or does something else.
        """
        if self._group is None:
            return [payload]
        table = self._announce(_GIVES, len(payload), options=zlib.crc32(what.encode()))
        if len(set(table[:, 3].tolist())) > 1:
            raise ComponentError(
                f"the processes of the group are at different steps of the call, this one at {what}: components must "
                "read as many batches in all of them"
            )
        sizes = table[:, 1].tolist()
        gathered = [b""] * self.size
        if max(sizes):
            own = torch.zeros(max(sizes), dtype=torch.uint8, device="cpu")
            own[: len(payload)] = torch.frombuffer(bytearray(payload or b"\0"), dtype=torch.uint8)[: len(payload)]
            own = own.to(self._device)
            parts = [torch.empty_like(own) for _ in range(self.size)]
            distributed.all_gather(parts, own, group=self._group)
            gathered = [part[:size].cpu().numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]
        self.end()
        return gathered

    def gather(self, value: Any, what: str) -> list[Any]:
        """Return the value of every process, in the order of the ranks; ``what`` says what it is, in messages."""
        if self._group is None:
            return [value]
        return [wire.loads(one) for one in self.exchange(wire.dumps(value), what)]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with those of the first process."""
        for tensor in tensors if self._group is not None else ():
            sent = tensor.detach().to(self._device) if self._device == "cuda" else tensor.detach().contiguous()
            distributed.broadcast(sent.reshape(-1).view(torch.uint8), group=self._group, group_src=0)
            if sent.data_ptr() != tensor.data_ptr():
                tensor.copy_(sent)

    def finish(self) -> None:
        """Agree that all processes are done; raise ``ComponentError`` if another one failed or still selects."""
        self._announce(_DONE)

    def _announce(self, state: int, entries: int = 0, doubles: bool = False, options: int = 0) -> Counts:
        self._others_wait = False
        table = self.each((state, entries, doubles, options))
        others = table[:, 0].tolist()
        if others != [state] * self.size:
            worst = max(others)
            raise ComponentError(f"process {others.index(worst)} of the group's {self.size} {_WHAT[worst]}")
        return table

    def __enter__(self) -> SelectionGroup:
        self.end()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and self._others_wait:
            self._others_wait = False
            self.each((_FAILED, 0, 0, 0))
