"""How far the cells of a grid are, read from what their runs record."""

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
    """A cell that is being carried out: how much of it is done, a fraction of one, and where it is.

    ``epochs`` is None until the first has ended, where each mega-batch has a number of its own.
    """

    share: float
    mega_batch: int
    epoch: int
    epochs: int | None


@dataclass(eq=False)
class ProgressReader:
    """Reads on in the records of cells. What stood there before it began is of an earlier process, and is passed over.

    It writes nothing, and a record that is gone or half written tells it nothing. Threads may share it.
    """

    pool: CellStore
    digests: Sequence[str]
    _read: dict[str, int] = field(default_factory=dict)
    _samples: dict[str, Sequence[int]] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    _standing: dict[str, CellProgress] = field(default_factory=dict)
    _began: dict[str, float] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _seconds: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for digest in self.digests:
            self._read[digest] = self._size(self._path(digest))

    def end(self, digest: str) -> None:
        """A cell came to its end."""
        with self._lock:
            self._read_on(digest)  # it may have begun since the last look
            self._ended.add(digest)

    def standing(self) -> Mapping[str, CellProgress]:
        """The cells that are being carried out, by digest, in the order of the grid."""
        with self._lock:
            return self._running()

    def share(self) -> float:
        """How much of all the cells is done, a fraction of one."""
        with self._lock:
            return self._share(self._running())

    def left(self) -> float | None:
        """Seconds that the rest takes at the pace so far; None before there is one.

        Cells that were seen to begin make the pace, and no others: another process may have finished some before.
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
        return {digest: self._standing[digest] for digest in running if digest in self._standing}

    def _share(self, running: Mapping[str, CellProgress]) -> float:
        begun = sum(standing.share for standing in running.values())
        return (len(self._ended) + begun) / len(self.digests) if self.digests else 1.0

    def _read_on(self, digest: str) -> None:
        for event in self._news(digest):
            self._note(digest, event)

    def _note(self, digest: str, event: Mapping[str, Any]) -> None:
        if event.get("event") == "run_started":
            self._samples[digest] = event["samples"]
            self._seen[digest] = sum(event["samples"][: event["done"]]) + event["done_samples"]
            self._move(digest, event["done"] + 1, event["done_epochs"], event["epochs"])
            self._began[digest] = self._standing[digest].share
        elif event.get("event") == "epoch_ended" and digest in self._samples:
            self._seen[digest] += event["samples"]
            self._move(digest, event["mega_batch"], event["epoch"], event["epochs"])
        elif event.get("event") == "mega_batch_ended" and digest in self._samples:
            row = event["row"]
            self._seen[digest] = sum(self._samples[digest][: row["index"]])  # patience may have ended it early
            self._move(digest, row["index"], row["epochs"], row["epochs"])

    def _move(self, digest: str, mega_batch: int, epoch: int, epochs: int | None) -> None:
        share = self._seen[digest] / sum(self._samples[digest])
        self._standing[digest] = CellProgress(share, mega_batch, epoch, epochs)

    def _news(self, digest: str) -> list[Mapping[str, Any]]:
        """The whole lines that were added since the last look."""
        path, place = self._path(digest), self._read[digest]
        if self._size(path) < place:  # the run was begun again
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
        return self.pool.directory(digest) / "events.jsonl"

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return 0
