"""The folder of an ablation: one run's directory per cell, named by the digest of its configuration.

cells/0123456789abcdef/               the run directory; complete with seal.json, which has the digest of its result
cells/0123456789abcdef.failed.json    why a cell failed, until it is tried again
cells/0123456789abcdef.lock           locked by the process that runs the cell
grids/NAME.json                       the cells of a grid, in its order
grids/NAME.answers/                   the answers of analyses about all cells together

Each of these JSON files has a digest of its content. Anything else under one of these names, as a folder in place of a
file, is damage and is removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from forgetkit.analysis import answers
from forgetkit.analysis.answers import StoredAnswer
from forgetkit.contracts import Keep
from forgetkit.errors import RecordError, RunDirectoryError, RunInUseError
from forgetkit.results.outcome import Outcome, Outcomes, Status
from forgetkit.storage import RunDirectory, own_folder, read_with_digest, result_from, write_with_digest
from forgetkit.storage.validation import error_line, parse_as
from forgetkit.system import safe_open, stale_files
from forgetkit.system.file_lock import locked

SCHEMA = 2
_SHORT = 16
_REMEDY = "forgetkit ablate makes it again"
_log = logging.getLogger("forgetkit")


@dataclass(frozen=True)
class CellStatus:
    """The state of one cell: its result if it is complete and intact, else why there is none."""

    status: Status
    result: Mapping[str, Any] | None = None
    reason: str = ""
    remark: str = ""
    """The damage that was found, in one line."""
    failed_at: int = 0
    """When the recorded failure was written, to distinguish it from a later one."""


@dataclass(frozen=True)
class GridManifest:
    """A grid on disk; each of its cells has ``arm``, ``seed`` and ``digest``."""

    title: str
    axes: tuple[str, ...]
    cells: tuple[Mapping[str, Any], ...]
    baseline: Mapping[str, str] | None = None
    command: str = ""

    def is_compatible_with(self, other: GridManifest) -> bool:
        """Whether one grid has all cells of the other: the same grid with more or fewer arms or seeds."""
        mine, theirs = self._digests, other._digests
        return self.axes == other.axes and (mine.items() <= theirs.items() or theirs.items() <= mine.items())

    @property
    def _digests(self) -> dict[tuple[str, ...], str]:
        return {(*(cell["arm"][axis] for axis in self.axes), str(cell["seed"])): cell["digest"] for cell in self.cells}


@dataclass(frozen=True)
class _Cell:
    arm: Mapping[str, str]
    seed: int
    digest: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]  # it becomes a path


@dataclass(frozen=True)
class _Grid:
    """The types of a :class:`GridManifest` on disk."""

    title: str
    axes: tuple[str, ...]
    cells: tuple[_Cell, ...]
    baseline: Mapping[str, str] | None
    command: str


@dataclass(frozen=True)
class CellStore:
    """The cells of a folder. Grids in one folder share them."""

    path: Path

    def directory(self, digest: str) -> Path:
        """The run directory of a cell."""
        return own_folder(self.path / "cells") / digest[:_SHORT]

    def lock(self, digest: str, wait: float = 0.0) -> AbstractContextManager[bool]:
        """Lock a cell while it runs; entering returns whether this process got the lock within ``wait`` seconds."""
        path = self._folder("cells") / f"{digest[:_SHORT]}.lock"
        if path.is_symlink() or not path.is_file():  # a folder, a pipe
            _remove(path)
        return locked(path, wait, create=True)

    def find(self, digest: str) -> CellStatus:
        """The state of a cell. Changes nothing."""
        path, failure = self.directory(digest), self._failure(digest)
        if any((path / name).exists() for name in ("result.json", "seal.json")):
            found = self._sealed_result(path, digest)
            return replace(found, remark="") if found.remark and self._is_running(digest) else found
        unfinished = "not finished" if path.exists() else "not run yet"
        try:
            failed_at = failure.stat().st_mtime_ns
            content = read_with_digest(failure)
        except (FileNotFoundError, NotADirectoryError):
            return CellStatus("missing", reason=unfinished)
        except (OSError, RunDirectoryError) as error:
            return CellStatus("missing", reason=unfinished, remark=f"{error}; forgetkit ablate tries the cell again")
        status: Status = "diverged" if content.get("status") == "diverged" else "failed"
        return CellStatus(status, reason=str(content.get("reason", "")), failed_at=failed_at)

    def _sealed_result(self, path: Path, digest: str) -> CellStatus:
        """The result, if its digest equals that of its seal."""
        try:
            content = safe_open.read_bytes(path / "result.json")
            seal = read_with_digest(path / "seal.json")
        except (OSError, RunDirectoryError):
            return CellStatus("missing", reason="not finished", remark=f"{path} has no result with its seal; {_REMEDY}")
        if seal.get("result_sha256") != hashlib.sha256(content).hexdigest():
            return CellStatus("missing", reason="damaged", remark=f"{path}: the result is damaged; {_REMEDY}")
        if seal.get("digest") != digest:
            return CellStatus("missing", reason="damaged", remark=f"{path} belongs to another cell; {_REMEDY}")
        try:
            return CellStatus("completed", result_from(content, path / "result.json"))
        except RunDirectoryError as error:
            return CellStatus("missing", reason="damaged", remark=f"{error}; {_REMEDY}")

    def _is_running(self, digest: str) -> bool:
        """Whether a process runs the cell, so that missing files are no damage."""
        path = own_folder(self.path / "cells") / f"{digest[:_SHORT]}.lock"
        try:
            with locked(path) as is_free:
                return not is_free
        except OSError:  # no process runs a cell without the file, nor in a read-only folder
            return False

    def seal(self, digest: str) -> None:
        """Record that the result of a cell is complete, and remove the record of a failure."""
        path = self.directory(digest)
        content = (path / "result.json").read_bytes()
        write_with_digest(path / "seal.json", {"digest": digest, "result_sha256": hashlib.sha256(content).hexdigest()})
        _remove(self._failure(digest))

    def fail(self, digest: str, status: Status, reason: str) -> None:
        """Record why a cell has no result."""
        self._folder("cells")
        _write(self._failure(digest), {"status": status, "reason": reason})

    def open_unfinished(self, digest: str) -> RunDirectory | None:
        """Open the unfinished run of a cell, without an invalid result; None if there is nothing to resume.

        Raises ``RunInUseError`` if another process resumes it.
        """
        path = self.directory(digest)
        if not os.path.lexists(path):
            return None
        try:
            if path.is_symlink() or not path.is_dir():
                raise RunDirectoryError(f"{path} is not the folder of a run")
            run = RunDirectory(path)
            with run.locked():
                for name in ("result.json", "seal.json"):
                    _remove(path / name)
                RunDirectory.reopen(path).checkpoint()
        except RunInUseError:
            raise
        except RunDirectoryError as error:
            self.discard(digest, error)
            return None
        return run

    def discard(self, digest: str, reason: Exception) -> None:
        """Remove a run that cannot be resumed, and log why."""
        _log.warning("the run in %s starts again: %s", self.directory(digest), reason)
        _remove(self.directory(digest))

    def has_stale(self, digest: str) -> bool:
        """Whether a finished cell still has the checkpoints of an unfinished one."""
        return bool(self._checkpoints(digest))

    def _checkpoints(self, digest: str) -> list[Path]:
        return self._checkpoint_files(digest, "resume-*")

    def _checkpoint_files(self, digest: str, pattern: str) -> list[Path]:
        """Checkpoint files of that name; none behind a link, where files are not ours."""
        folder = self.directory(digest) / "checkpoints"
        return [] if folder.is_symlink() or folder.parent.is_symlink() else sorted(folder.glob(pattern))

    def remove_stale(self, digest: str, keep: Keep) -> None:
        """Remove files that a finished cell no longer needs, and half-written files of killed processes."""
        models = RunDirectory(self.directory(digest)).models
        kept = {"all": models, "last": models[-1:], "none": ()}[keep]
        stems = [f"mega-batch-{number:03}" for number in kept]
        gone = [file for file in self._checkpoint_files(digest, "mega-batch-*") if file.stem not in stems]
        half_written = [*self._checkpoint_files(digest, ".*.tmp"), *own_folder(self.directory(digest)).glob(".*.tmp")]
        for file in (
            *gone,
            *half_written,
            *self._checkpoints(digest),
        ):  # resume checkpoints last: has_stale looks for them
            with contextlib.suppress(OSError):
                file.unlink()

    def sweep(self) -> None:
        """Remove old half-written files of killed processes beside cells and grids."""
        for name in ("cells", "grids"):
            stale_files.remove_stale_files(own_folder(self.path / name).glob(".*.tmp"))

    def name_for(self, manifest: GridManifest, stem: str) -> str:
        """``stem``, or the first of ``stem-2``, ``stem-3`` that no other grid has."""
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        return next(name for name in names if self.name_available(name, manifest))

    def name_available(self, name: str, manifest: GridManifest) -> bool:
        """Whether a grid can have a name: it is free, its manifest is unreadable, or one grid extends the other."""
        path = self._manifest_file(name)
        try:
            return not path.exists() or _read_manifest(path).is_compatible_with(manifest)
        except RunDirectoryError:
            return True

    def write_manifest(self, name: str, manifest: GridManifest) -> None:
        """Write the manifest of a grid; log a warning if the previous one is damaged."""
        path = self._folder("grids") / f"{name}.json"
        if path.exists():
            try:
                _read_manifest(path)
            except RunDirectoryError as error:
                _log.warning("%s", error)
        _write(path, {"schema": SCHEMA, **dataclasses.asdict(manifest)})

    def grids(self) -> tuple[str, ...]:
        """The names of the grids in this folder, the newest first."""
        files = [file for file in own_folder(self.path / "grids").glob("*.json") if not file.name.startswith(".")]
        return tuple(file.stem for file in sorted(files, key=lambda file: file.lstat().st_mtime_ns, reverse=True))

    def outcomes(self, name: str | None = None, *, with_answers: bool = True) -> Outcomes:
        """The outcomes and answers of a grid's cells, by default of the newest grid."""
        known = self.grids()
        if not known:
            raise RunDirectoryError(f"{self.path} holds no grid: give the folder of an ablation")
        if name is not None and name not in known:
            raise RunDirectoryError(f"{self.path} holds no grid '{name}'; there are {', '.join(known)}")
        chosen = name or known[0]
        cells = self.gather(_read_manifest(self._manifest_file(chosen)), with_answers=with_answers)
        return replace(cells, answers=answers_in(self.answers_folder(chosen))) if with_answers else cells

    def answers_folder(self, name: str) -> Path:
        """The folder of the answers about all cells of a grid together."""
        return own_folder(own_folder(self.path / "grids") / f"{name}.answers")

    def gather(self, manifest: GridManifest, *, with_answers: bool = True) -> Outcomes:
        """The outcomes of a grid's cells; damage is logged."""
        cells = _drop_minority_questions([self._outcome(cell, with_answers=with_answers) for cell in manifest.cells])
        return Outcomes(manifest.title, manifest.axes, cells, manifest.baseline, manifest.command)

    def _manifest_file(self, name: str) -> Path:
        return own_folder(self.path / "grids") / f"{name}.json"

    def _outcome(self, cell: Mapping[str, Any], *, with_answers: bool) -> Outcome:
        found = self.find(cell["digest"])
        if found.remark:
            _log.warning("%s", found.remark)
        finished = found.status == "completed"
        counts_of = answers_in(self.directory(cell["digest"])) if finished and with_answers else ()
        return Outcome(
            cell["arm"], int(cell["seed"]), cell["digest"], found.status, found.result, found.reason, counts_of
        )

    def _failure(self, digest: str) -> Path:
        return own_folder(self.path / "cells") / f"{digest[:_SHORT]}.failed.json"

    def _folder(self, name: str) -> Path:
        """Make a folder below this one; raises ``RunDirectoryError`` if it cannot be written to."""
        folder = own_folder(self.path / name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make {folder}: {error.strerror}; choose another --out") from error
        if not os.access(folder, os.W_OK):
            raise RunDirectoryError(f"{folder} may not be written to; choose another --out")
        return folder


def answers_in(folder: Path) -> tuple[StoredAnswer, ...]:
    """The stored answers in a folder, by label; damaged ones are logged and left out."""
    whole = []
    for found in answers.stored_answers(folder):
        if isinstance(found, StoredAnswer):
            whole.append(found)
        else:
            _log.warning("%s", found)
    return tuple(whole)


def _drop_minority_questions(cells: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Drop answers to other questions than most under their label: a mean must not mix questions."""
    counts_of: dict[str, Counter[str]] = {}
    for cell in cells:
        for one in cell.answers:
            counts_of.setdefault(one.label, Counter())[one.question] += 1
    usual = {label: counts.most_common(1)[0][0] for label, counts in counts_of.items()}
    for label, counts in counts_of.items():
        others = [question for question in counts if question != usual[label]]
        if others:
            _log.warning(
                "under %s are answers to different questions; those to %s are shown, those to %s not: "
                "ask all runs alike",
                label,
                usual[label],
                ", ".join(others),
            )
    return tuple(
        replace(cell, answers=tuple(one for one in cell.answers if one.question == usual[one.label])) for cell in cells
    )


def _read_manifest(path: Path) -> GridManifest:
    """Read the manifest of a grid; it is the only source of the names of arms, so no byte may differ."""
    content = read_with_digest(path, "forgetkit ablate makes it again")
    if content.pop("schema", None) != SCHEMA:
        raise RunDirectoryError(f"{path} is of another version of forgetkit; forgetkit ablate makes it again")
    try:
        parse_as(_Grid, content)
        manifest = GridManifest(**{**content, "axes": tuple(content["axes"]), "cells": tuple(content["cells"])})
        _require_valid_manifest(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged ({error_line(error)}); forgetkit ablate makes it again") from error
    return manifest


def _require_valid_manifest(manifest: GridManifest) -> None:
    """Raise ``ValueError`` if cells contradict the axes: a valid digest does not prove the content."""
    arms = [*(cell["arm"] for cell in manifest.cells), *([] if manifest.baseline is None else [manifest.baseline])]
    if not manifest.cells or any(set(arm) != set(manifest.axes) for arm in arms):
        raise ValueError("the axes of a cell are not the grid's")
    if len(manifest._digests) < len(manifest.cells):
        raise ValueError("a cell is there twice")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    if path.is_dir():
        _remove(path)
    write_with_digest(path, content)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RecordError(f"cannot remove {path}: {error.strerror}") from error
