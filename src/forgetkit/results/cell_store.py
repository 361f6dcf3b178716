"""The folder of an ablation: one run's directory per cell, named by the digest of its configuration.

cells/0123456789abcdef/               the run's own directory; with seal.json, the digest of its result, it is complete
cells/0123456789abcdef.failed.json    why a cell came to nothing, until it is tried again
cells/0123456789abcdef.lock           held by the process that carries the cell out
grids/NAME.json                       the cells of a grid, in its order
grids/NAME.asked/                     holds what analyses answered about them together

Each of these JSON files says by a digest whether it is as it was written.

Whatever else lies under one of these names, a folder in place of a file say, is damage: it is taken away.
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
_AGAIN = "forgetkit ablate makes it again"
_log = logging.getLogger("forgetkit")


@dataclass(frozen=True)
class CellStatus:
    """What lies in the folder of one cell: its result where it is complete and whole, else why there is none."""

    status: Status
    result: Mapping[str, Any] | None = None
    reason: str = ""
    remark: str = ""
    """What was found damaged, in one line."""
    failed_at: int = 0
    """When the failure on record was written, so that another one can be told from it."""


@dataclass(frozen=True)
class GridManifest:
    """A grid as it is written down; its cells have ``arm``, ``seed`` and ``digest`` each."""

    title: str
    axes: tuple[str, ...]
    cells: tuple[Mapping[str, Any], ...]
    baseline: Mapping[str, str] | None = None
    command: str = ""

    def goes_with(self, other: GridManifest) -> bool:
        """Whether one of both has all cells of the other: the same question, with more or fewer arms or seeds."""
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
    """The cells of a folder. Grids that are carried out in one folder share them."""

    path: Path

    def directory(self, digest: str) -> Path:
        """Where the run of a cell is recorded."""
        return own_folder(self.path / "cells") / digest[:_SHORT]

    def lock(self, digest: str, wait: float = 0.0) -> AbstractContextManager[bool]:
        """Held while a cell is carried out; entering says whether this process has it, after ``wait`` seconds."""
        path = self._folder("cells") / f"{digest[:_SHORT]}.lock"
        if path.is_symlink() or not path.is_file():  # a folder, a pipe
            _remove(path)
        return locked(path, wait, create=True)

    def find(self, digest: str) -> CellStatus:
        """What became of a cell so far. Changes nothing."""
        path, failure = self.directory(digest), self._failure(digest)
        if any((path / name).exists() for name in ("result.json", "seal.json")):
            found = self._judged(path, digest)
            return replace(found, remark="") if found.remark and self._in_hand(digest) else found
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

    def _judged(self, path: Path, digest: str) -> CellStatus:
        """A result counts where its seal says that these are its bytes."""
        try:
            content = safe_open.read_bytes(path / "result.json")
            seal = read_with_digest(path / "seal.json")
        except (OSError, RunDirectoryError):
            return CellStatus("missing", reason="not finished", remark=f"{path} has no result with its seal; {_AGAIN}")
        if seal.get("result_sha256") != hashlib.sha256(content).hexdigest():
            return CellStatus("missing", reason="damaged", remark=f"{path}: the result is damaged; {_AGAIN}")
        if seal.get("digest") != digest:
            return CellStatus("missing", reason="damaged", remark=f"{path} belongs to another cell; {_AGAIN}")
        try:
            return CellStatus("completed", result_from(content, path / "result.json"))
        except RunDirectoryError as error:
            return CellStatus("missing", reason="damaged", remark=f"{error}; {_AGAIN}")

    def _in_hand(self, digest: str) -> bool:
        """Whether a process carries the cell out, so that what it has not written yet is no damage."""
        path = own_folder(self.path / "cells") / f"{digest[:_SHORT]}.lock"
        try:
            with locked(path) as is_free:
                return not is_free
        except OSError:  # nobody is at work without the file, nor in a folder that may not be written to
            return False

    def seal(self, digest: str) -> None:
        """Say that the result of a cell is whole, and forget that it ever failed."""
        path = self.directory(digest)
        content = (path / "result.json").read_bytes()
        write_with_digest(path / "seal.json", {"digest": digest, "result_sha256": hashlib.sha256(content).hexdigest()})
        _remove(self._failure(digest))

    def fail(self, digest: str, status: Status, reason: str) -> None:
        """Record why a cell came to nothing."""
        self._folder("cells")
        _write(self._failure(digest), {"status": status, "reason": reason})

    def reopened(self, digest: str) -> RunDirectory | None:
        """The unfinished run of a cell, less a result that does not count; None where nothing is to go on from.

        Raises ``RunInUseError`` where somebody goes on with it by hand.
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
        """Take away what cannot be gone on with, and say why."""
        _log.warning("%s is begun again: %s", self.directory(digest), reason)
        _remove(self.directory(digest))

    def has_stale(self, digest: str) -> bool:
        """Whether what came to its end here still has what only an unfinished cell needs."""
        return bool(self._checkpoints(digest))

    def _checkpoints(self, digest: str) -> list[Path]:
        return self._among_checkpoints(digest, "resume-*")

    def _among_checkpoints(self, digest: str, pattern: str) -> list[Path]:
        """Files of that name, unless a link leads elsewhere: what lies there is not ours."""
        folder = self.directory(digest) / "checkpoints"
        return [] if folder.is_symlink() or folder.parent.is_symlink() else sorted(folder.glob(pattern))

    def remove_stale(self, digest: str, keep: Keep) -> None:
        """Take away what a finished cell needs no more, and what a killed process left half written."""
        models = RunDirectory(self.directory(digest)).models
        kept = {"all": models, "last": models[-1:], "none": ()}[keep]
        stems = [f"mega-batch-{number:03}" for number in kept]
        gone = [file for file in self._among_checkpoints(digest, "mega-batch-*") if file.stem not in stems]
        half_written = [*self._among_checkpoints(digest, ".*.tmp"), *own_folder(self.directory(digest)).glob(".*.tmp")]
        for file in (*gone, *half_written, *self._checkpoints(digest)):  # the last ones say that this is to be done
            with contextlib.suppress(OSError):
                file.unlink()

    def sweep(self) -> None:
        """Remove what killed processes left half written beside the cells and the notes of grids, by its age."""
        for name in ("cells", "grids"):
            stale_files.remove_stale_files(own_folder(self.path / name).glob(".*.tmp"))

    def name_for(self, note: GridManifest, stem: str) -> str:
        """``stem``, or the first of ``stem-2``, ``stem-3`` that no other question has."""
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        return next(name for name in names if self.may_take(name, note))

    def may_take(self, name: str, note: GridManifest) -> bool:
        """Whether a note of that name may be replaced by this one, or there is none that could be read."""
        path = self._note(name)
        try:
            return not path.exists() or _read_manifest(path).goes_with(note)
        except RunDirectoryError:
            return True

    def note(self, name: str, note: GridManifest) -> None:
        """Write a grid down. A note that was there is said where it is damaged."""
        path = self._folder("grids") / f"{name}.json"
        if path.exists():
            try:
                _read_manifest(path)
            except RunDirectoryError as error:
                _log.warning("%s", error)
        _write(path, {"schema": SCHEMA, **dataclasses.asdict(note)})

    def grids(self) -> tuple[str, ...]:
        """The names of the grids in this folder, the newest first."""
        notes = [note for note in own_folder(self.path / "grids").glob("*.json") if not note.name.startswith(".")]
        return tuple(note.stem for note in sorted(notes, key=lambda note: note.lstat().st_mtime_ns, reverse=True))

    def outcomes(self, name: str | None = None, *, with_answers: bool = True) -> Outcomes:
        """What became of a grid's cells, and what they answered; of the newest grid where none is named."""
        known = self.grids()
        if not known:
            raise RunDirectoryError(f"{self.path} holds no grid: give the folder of an ablation")
        if name is not None and name not in known:
            raise RunDirectoryError(f"{self.path} holds no grid '{name}'; there are {', '.join(known)}")
        chosen = name or known[0]
        cells = self.gather(_read_manifest(self._note(chosen)), with_answers=with_answers)
        return replace(cells, answers=answers_in(self.answers_folder(chosen))) if with_answers else cells

    def answers_folder(self, name: str) -> Path:
        """The folder of what analyses answered about all cells of a grid together, as of a run's its directory."""
        return own_folder(own_folder(self.path / "grids") / f"{name}.asked")

    def gather(self, note: GridManifest, *, with_answers: bool = True) -> Outcomes:
        """What became of the cells of a grid; what is damaged among them is said."""
        cells = _of_most_common_question([self._outcome(cell, with_answers=with_answers) for cell in note.cells])
        return Outcomes(note.title, note.axes, cells, note.baseline, note.command)

    def _note(self, name: str) -> Path:
        return own_folder(self.path / "grids") / f"{name}.json"

    def _outcome(self, cell: Mapping[str, Any], *, with_answers: bool) -> Outcome:
        found = self.find(cell["digest"])
        if found.remark:
            _log.warning("%s", found.remark)
        finished = found.status == "completed"
        asked = answers_in(self.directory(cell["digest"])) if finished and with_answers else ()
        return Outcome(cell["arm"], int(cell["seed"]), cell["digest"], found.status, found.result, found.reason, asked)

    def _failure(self, digest: str) -> Path:
        return own_folder(self.path / "cells") / f"{digest[:_SHORT]}.failed.json"

    def _folder(self, name: str) -> Path:
        """A folder of this one, there and open to us."""
        folder = own_folder(self.path / name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make {folder}: {error.strerror}; choose another --out") from error
        if not os.access(folder, os.W_OK):
            raise RunDirectoryError(f"{folder} may not be written to; choose another --out")
        return folder


def answers_in(folder: Path) -> tuple[StoredAnswer, ...]:
    """What analyses answered in a folder, by label; a line says what is damaged, and the rest stands."""
    whole = []
    for found in answers.stored_answers(folder):
        if isinstance(found, StoredAnswer):
            whole.append(found)
        else:
            _log.warning("%s", found)
    return tuple(whole)


def _of_most_common_question(cells: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """The cells less the answers that are to another question than most under their label: no mean is taken of both."""
    asked: dict[str, Counter[str]] = {}
    for cell in cells:
        for one in cell.answers:
            asked.setdefault(one.label, Counter())[one.question] += 1
    usual = {label: counts.most_common(1)[0][0] for label, counts in asked.items()}
    for label, counts in asked.items():
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
    """What was written down of a grid; the names of arms in it come from nowhere else, so no byte may be another."""
    content = read_with_digest(path, "forgetkit ablate makes it again")
    if content.pop("schema", None) != SCHEMA:
        raise RunDirectoryError(f"{path} is of another version of forgetkit; forgetkit ablate makes it again")
    try:
        parse_as(_Grid, content)
        note = GridManifest(**{**content, "axes": tuple(content["axes"]), "cells": tuple(content["cells"])})
        _require_valid_manifest(note)
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged ({error_line(error)}); forgetkit ablate makes it again") from error
    return note


def _require_valid_manifest(note: GridManifest) -> None:
    """Whoever can write a note can seal it, so what it says is looked at too."""
    arms = [*(cell["arm"] for cell in note.cells), *([] if note.baseline is None else [note.baseline])]
    if not note.cells or any(set(arm) != set(note.axes) for arm in arms):
        raise ValueError("the axes of a cell are not the grid's")
    if len(note._digests) < len(note.cells):
        raise ValueError("a cell is there twice")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    if path.is_dir():
        _remove(path)
    write_with_digest(path, content)


def _remove(path: Path) -> None:
    """A file or a folder, where there is one."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RecordError(f"cannot take away {path}: {error.strerror}") from error
