"""The progress of the cells of a grid, read from the records of their runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forgetkit.results.cell_store import CellStore
from forgetkit.storage import events_in
from forgetkit.system import safe_open


@dataclass(frozen=True)
class CellProgress:
    """A cell that runs: the fraction that is done, the mega-batch and the epoch.

    ``epochs`` is None until the first has ended, if mega-batches differ in it.
    """

    share: float
    mega_batch: int
    epoch: int
    epochs: int | None


@dataclass(eq=False)
class ProgressReader:
    """Reads what is appended to the records of cells, and skips what earlier processes wrote.

    It writes nothing, and ignores a missing or half-written record. Threads may share it.
    """

    store: CellStore
    digests: Sequence[str]
    _read: dict[str, int] = field(default_factory=dict)
    _samples: dict[str, Sequence[int]] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    _running_cells: dict[str, CellProgress] = field(default_factory=dict)
    _began: dict[str, float] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _seconds: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for digest in self.digests:
            self._read[digest] = self._size(self._path(digest))

    def end(self, digest: str) -> None:
        """Note that a cell ended."""
        with self._lock:
            self._read_on(digest)  # it may have begun since the last call
            self._ended.add(digest)

    def running(self) -> Mapping[str, CellProgress]:
        """Return the cells that run, by digest, in the order of the grid."""
        with self._lock:
            return self._running()

    def share(self) -> float:
        """Return the fraction of all cells that is done."""
        with self._lock:
            return self._share(self._running())

    def left(self) -> float | None:
        """Return the seconds that the rest takes at the pace so far; None before there is one.

        Only cells that began since then count for the pace: another process may have finished others.
        """
        with self._lock:
            running = self._running()
            done = sum(running[digest].share if digest in running else 1.0 for digest in self._began)
            done -= sum(self._began.values())
            rest = len(self.digests) * (1 - self._share(running))
            return (time.monotonic() - self._seconds) / done * rest if done > 0 else None

    def _running(self) -> dict[str, CellProgress]:
        running = [digest for digest in self.digests if digest not in self._ended]
        for digest in running:
            self._read_on(digest)
        return {digest: self._running_cells[digest] for digest in running if digest in self._running_cells}

    def _share(self, running: Mapping[str, CellProgress]) -> float:
        started = sum(cell.share for cell in running.values())
        return (len(self._ended) + started) / len(self.digests) if self.digests else 1.0

    def _read_on(self, digest: str) -> None:
        for event in self._news(digest):
            self._note(digest, event)

    def _note(self, digest: str, event: Mapping[str, Any]) -> None:
        if event.get("event") == "run_started":
            self._samples[digest] = event["samples"]
            self._seen[digest] = sum(event["samples"][: event["done"]]) + event["done_samples"]
            self._move(digest, event["done"] + 1, event["done_epochs"], event["epochs"])
            self._began[digest] = self._running_cells[digest].share
        elif event.get("event") == "epoch_ended" and digest in self._samples:
            self._seen[digest] += event["samples"]
            self._move(digest, event["mega_batch"], event["epoch"], event["epochs"])
        elif event.get("event") == "mega_batch_ended" and digest in self._samples:
            row = event["row"]
            self._seen[digest] = sum(self._samples[digest][: row["index"]])  # early stopping may have ended it
            self._move(digest, row["index"], row["epochs"], row["epochs"])

    def _move(self, digest: str, mega_batch: int, epoch: int, epochs: int | None) -> None:
        share = self._seen[digest] / sum(self._samples[digest])
        self._running_cells[digest] = CellProgress(share, mega_batch, epoch, epochs)

    def _news(self, digest: str) -> list[Mapping[str, Any]]:
        """Return the events of the whole lines since the last call."""
        path, place = self._path(digest), self._read[digest]
        if self._size(path) < place:  # the run was restarted
            place = 0
        try:
            with safe_open.open_file(path) as file:
                file.seek(place)
                text = file.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._read[digest] = place + len(whole)
        return list(events_in(whole.splitlines()))

    def _path(self, digest: str) -> Path:
        return self.store.directory(digest) / "events.jsonl"

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return 0
