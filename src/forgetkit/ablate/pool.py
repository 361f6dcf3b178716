"""The folder of an ablation: one run's directory per cell, named by the digest of its configuration.

cells/0123456789abcdef/               the run's own directory; with seal.json, the digest of its result, it is complete
cells/0123456789abcdef.failed.json    why a cell came to nothing, until it is tried again
cells/0123456789abcdef.lock           held by the process that carries the cell out
grids/NAME.json                       the cells of a grid, in its order
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from forgetkit.ablate.outcome import Outcome, Outcomes, Status
from forgetkit.errors import RecordError, RunDirectoryError
from forgetkit.record import RunDirectory, read_json, write_json

_SHORT = 16


@dataclass(frozen=True)
class Found:
    """What lies in the folder of one cell: its result where it is complete and whole, else why there is none."""

    status: Status
    result: Mapping[str, Any] | None = None
    reason: str = ""
    remark: str = ""
    """What was found damaged, in one line."""


@dataclass(frozen=True)
class Pool:
    """The cells of a folder. Grids that are carried out in one folder share them."""

    path: Path

    def directory(self, digest: str) -> Path:
        """Where the run of a cell is recorded."""
        return self.path / "cells" / digest[:_SHORT]

    def lock(self, digest: str) -> FileLock:
        """Held while a cell is carried out; the system lets go of it when its holder dies."""
        cells = self.path / "cells"
        try:
            cells.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make {cells}: {error.strerror}; choose another --out") from error
        return FileLock(cells / f"{digest[:_SHORT]}.lock")

    def find(self, digest: str) -> Found:
        """What became of a cell so far. Changes nothing."""
        path = self.directory(digest)
        if (path / "result.json").exists():
            return self._judged(path, digest)
        failure = self._failure(digest)
        if failure.exists():
            try:
                content = read_json(failure)
                status: Status = "diverged" if content.get("status") == "diverged" else "failed"
                return Found(status, reason=str(content.get("reason", "")))
            except RunDirectoryError as error:
                return Found("missing", reason="not run yet", remark=str(error))
        return Found("missing", reason="not finished" if path.exists() else "not run yet")

    def _judged(self, path: Path, digest: str) -> Found:
        """A result counts where its seal says that these are its bytes."""
        try:
            content = (path / "result.json").read_bytes()
            sealed = read_json(path / "seal.json").get("sha256")
        except (OSError, RunDirectoryError):
            return Found("missing", reason="not finished", remark=f"{path} has no seal, so its result is made again")
        if hashlib.sha256(content).hexdigest() != sealed:
            return Found("missing", reason="damaged", remark=f"{path}: the result is damaged and made again")
        result: dict[str, Any] = json.loads(content)
        if read_json(path / "seal.json").get("digest") != digest:
            return Found("missing", reason="damaged", remark=f"{path} belongs to another cell, so it is made again")
        return Found("completed", result)

    def seal(self, digest: str) -> None:
        """Say that the result of a cell is whole, and forget that it ever failed."""
        path = self.directory(digest)
        content = (path / "result.json").read_bytes()
        write_json(path / "seal.json", {"digest": digest, "sha256": hashlib.sha256(content).hexdigest()})
        self._failure(digest).unlink(missing_ok=True)

    def fail(self, digest: str, status: Status, reason: str) -> None:
        """Record why a cell came to nothing."""
        self.path.joinpath("cells").mkdir(parents=True, exist_ok=True)
        write_json(self._failure(digest), {"status": status, "reason": reason})

    def reopened(self, digest: str) -> RunDirectory | None:
        """The unfinished run of a cell, less a result that does not count; None where nothing is to go on from."""
        path = self.directory(digest)
        if not path.exists():
            return None
        for name in ("result.json", "seal.json"):
            (path / name).unlink(missing_ok=True)
        try:
            run = RunDirectory.reopen(path)
            run.manifest, run.resume_point()
        except RunDirectoryError:
            self.discard(digest)
            return None
        return run

    def discard(self, digest: str) -> None:
        """Take away what cannot be gone on with."""
        try:
            shutil.rmtree(self.directory(digest))
        except OSError as error:
            raise RecordError(f"cannot take away {self.directory(digest)}: {error.strerror}") from error

    def note(
        self, name: str, title: str, axes: Sequence[str], cells: Sequence[Mapping[str, Any]], baseline: Any
    ) -> None:
        """Write down which cells a grid has: ``arm``, ``seed`` and ``digest`` of each."""
        folder = self.path / "grids"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make {folder}: {error.strerror}; choose another --out") from error
        content = {"schema": 1, "title": title, "axes": list(axes), "baseline": baseline, "cells": list(cells)}
        write_json(folder / f"{name}.json", content)

    def grids(self) -> tuple[str, ...]:
        """The names of the grids in this folder, the newest first."""
        notes = sorted(self.path.glob("grids/*.json"), key=lambda note: note.stat().st_mtime_ns, reverse=True)
        return tuple(note.stem for note in notes)

    def outcomes(self, name: str | None = None) -> Outcomes:
        """What became of a grid's cells; of the newest grid where none is named."""
        known = self.grids()
        if not known:
            raise RunDirectoryError(f"{self.path} holds no grid: it is not the folder of an ablation")
        if name is not None and name not in known:
            raise RunDirectoryError(f"{self.path} holds no grid '{name}'; there are {', '.join(known)}")
        note = self.path / "grids" / f"{name or known[0]}.json"
        content = read_json(note)
        try:
            cells = tuple(self._outcome(cell) for cell in content["cells"])
            return Outcomes(str(content["title"]), tuple(content["axes"]), cells, content["baseline"])
        except (KeyError, TypeError) as error:
            raise RunDirectoryError(f"{note} is damaged: {error!r}; run forgetkit ablate again") from error

    def _outcome(self, cell: Mapping[str, Any]) -> Outcome:
        found = self.find(cell["digest"])
        return Outcome(cell["arm"], int(cell["seed"]), cell["digest"], found.status, found.result, found.reason)

    def _failure(self, digest: str) -> Path:
        return self.path / "cells" / f"{digest[:_SHORT]}.failed.json"
