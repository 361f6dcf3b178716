"""The directory of a run: the manifest, the events, the checkpoints, the result.

manifest.json                   configuration, versions, digests; written first
events.jsonl                    a line per event, each with a checksum; appended to, never rewritten
checkpoints/resume-003-0020.*   a checkpoint to resume from (mega-batch 3, 20 epochs done) and a note of its digest
                                and the number of rows; the newest two are kept. One within an epoch has the number
                                of its steps in its name: resume-003-0020-000117.*
checkpoints/resume-row-002.json the row of mega-batch 2, written once and not again with every checkpoint
checkpoints/mega-batch-003.*    the model that was evaluated after mega-batch 3 and a note of its digest
checkpoints/masks-003.*         the entries that were reset after it, a bit for each, and a note of its digest
analyses/NAME.json              an answer of an analysis, and NAME.svg and NAME.png; see forgetkit.analysis.answers
result.json                     written last; then the files checkpoints/resume-* are removed
run.holder.json                 names the process that works on the run and holds the lock of manifest.json

Each JSON file ends in a digest of its other content and has the ``run_id`` of the manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from forgetkit.contracts import Keep, MegaBatchResult
from forgetkit.errors import RecordError, RunDirectoryError
from forgetkit.storage import run_lock
from forgetkit.storage.atomic_files import (
    as_json,
    as_object,
    own_folder,
    read_with_digest,
    sync_folder,
    with_digest,
    without_digest,
    write_atomically,
    write_with_digest,
)
from forgetkit.storage.checkpoints import load_state, save_state
from forgetkit.storage.events import events_in, line_of
from forgetkit.storage.validation import error_line, parse_row, require_manifest, require_result
from forgetkit.system import safe_open

SCHEMA = 2
_STATE = re.compile(r"resume-(\d+)-(\d+)(?:-(\d+))?")
_MODEL = re.compile(r"mega-batch-(\d+)")
_MASKS = re.compile(r"masks-(\d+)")
_ROW = re.compile(r"resume-row-(\d+)")
_IMPOSSIBLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Python and torch raise on wrong content."""
_T = TypeVar("_T")
_log = logging.getLogger("forgetkit")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A point from which a run continues: the state, the finished rows, the seconds of the run so far.

    ``damage`` says what is wrong with a newer checkpoint that was passed over.
    """

    state: dict[str, Any]
    rows: tuple[MegaBatchResult, ...]
    seconds: float
    damage: str = ""


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run."""

    path: Path
    passed_over: set[str] = field(default_factory=set, compare=False, repr=False)
    """The stems of damaged checkpoints, which the next one replaces."""

    @classmethod
    def create(cls, out: Path, name: str, manifest: Mapping[str, Any], *, numbered: bool = False) -> RunDirectory:
        """Create a folder ``out/name`` with its manifest; refuse an existing one.

        With ``numbered``, take the first of ``name``, ``name-2``, ``name-3`` that is free instead.
        """
        path = _make_folder(out, name, numbered=numbered)
        directory = cls(path)
        try:
            (path / "checkpoints").mkdir()
            write_with_digest(path / "manifest.json", {"schema": SCHEMA, "run_id": secrets.token_hex(8), **manifest})
        except BaseException as error:  # a folder without a manifest is no run's
            shutil.rmtree(path, ignore_errors=True)
            if isinstance(error, OSError):
                raise RecordError(f"cannot make {path}: {error.strerror}") from error
            raise
        return directory

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """Open a run that is not finished; ``RunDirectoryError`` says why it cannot be resumed.

        A run whose result is damaged is not finished, and a warning says so.
        """
        directory = cls(path)
        if not path.is_dir():
            raise RunDirectoryError(f"{path} is not a folder; --resume takes the directory of a run")
        if not os.path.lexists(path / "manifest.json"):
            raise RunDirectoryError(f"{path} holds no manifest.json, so it is not the directory of a run")
        directory._require_its_own_files()
        if os.path.lexists(path / "result.json"):
            try:
                _ = directory.result
            except RunDirectoryError as error:
                _ = directory.manifest  # raises if that is damaged too
                _log.warning("%s; it is made again", error)
        directory.require_unfinished()
        return directory

    def require_unfinished(self) -> None:
        """Raise ``RunDirectoryError`` if the result is written and intact; call it again once the run is locked."""
        if self.finished:
            raise RunDirectoryError(
                f"{self.path} is finished, there is nothing to resume: its result is in {self.path / 'result.json'}"
            )

    @property
    def finished(self) -> bool:
        """Whether the result is written and intact."""
        try:
            return bool(self.result)
        except RunDirectoryError:
            return False

    @property
    def result(self) -> dict[str, Any]:
        """The content of ``result.json``, its digest included."""
        file, remedy = self.path / "result.json", f"{resume_command(self.path)} makes it again"
        try:
            return result_from(safe_open.read_bytes(file), file)
        except OSError as error:
            raise RunDirectoryError(f"{file} cannot be read: {error.strerror}; {remedy}") from error
        except RunDirectoryError as error:
            raise RunDirectoryError(f"{error}; {remedy}") from error

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``, without its digest."""
        file, remedy = self.path / "manifest.json", "start a new run, under another --name"
        content = read_with_digest(file, remedy)
        require_manifest(content, SCHEMA, str(file), remedy)
        return content

    @cached_property
    def run_id(self) -> str:
        """The id that all files of this run have."""
        return str(self.manifest.get("run_id"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run and remove temporary files of killed processes; ``RunInUseError`` names another holder."""
        with run_lock.locked_run(self.path):
            with contextlib.suppress(OSError):  # a user removes it to begin from the start
                self._checkpoints.mkdir()
            for file in (*self.path.glob(".*.tmp"), *self._checkpoints.glob(".*.tmp")):
                with contextlib.suppress(OSError):
                    file.unlink()
            yield

    def append(self, event: Mapping[str, Any]) -> None:
        """Append a line to ``events.jsonl``, after a newline if a crash left the last line unfinished."""
        path = self.path / "events.jsonl"
        line = line_of({**event, "run_id": self.run_id})
        try:
            with open(path, "ab+", opener=_open_no_link) as file:
                if file.tell():
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":
                        line = b"\n" + line
                file.write(line)
        except OSError as error:
            raise RecordError(f"cannot write {path}: {error.strerror}") from error

    def events(self) -> Iterator[dict[str, Any]]:
        """The events of this run whose lines are intact."""
        with contextlib.suppress(OSError):
            for event in events_in(safe_open.read_bytes(self.path / "events.jsonl").splitlines()):
                if event.get("run_id") == self.run_id:
                    yield event

    def save_model(self, mega_batch: int, model: Mapping[str, Any], keep: Keep = "all") -> None:
        """Save the model that was evaluated after a mega-batch, and keep those of the others that ``keep`` names."""
        file = self._model_file(mega_batch)
        if keep != "none":
            digest = save_state(file, {"mega_batch": mega_batch, "model": dict(model)})
            self._write_note(file, {"mega_batch": mega_batch, "state_sha256": digest})
        if keep != "all":
            self.drop_models(besides=file.stem if keep == "last" else "")

    def drop_models(self, besides: str = "") -> None:
        """Remove the models, except the one with the stem ``besides``."""
        self._drop([file for file in self._all(_MODEL) if file.stem != besides])

    def remove_stale(self, keep: Keep) -> Iterator[str]:
        """Remove the models that ``keep`` does not name; yield a line for each of the others that is damaged."""
        if keep != "all":
            newest = f"mega-batch-{max(self.models, default=0):03}"
            self.drop_models(besides=newest if keep == "last" else "")
        for index in sorted({int(match[1]) for file in self._all(_MODEL) if (match := _MODEL.fullmatch(file.stem))}):
            try:
                self.model(index)
            except RunDirectoryError as error:
                yield str(error)

    @property
    def models(self) -> tuple[int, ...]:
        """The mega-batches whose models are saved."""
        return self._numbers(_MODEL)

    @property
    def masks(self) -> tuple[int, ...]:
        """The mega-batches whose masks are saved."""
        return self._numbers(_MASKS)

    def _numbers(self, named: re.Pattern[str]) -> tuple[int, ...]:
        found = (named.fullmatch(file.stem) for file in self._all(named) if file.suffix == ".pt")
        return tuple(sorted(int(match[1]) for match in found if match))

    def model(self, mega_batch: int) -> dict[str, torch.Tensor]:
        """Load the model that was evaluated after a mega-batch (from 1): its tensors by name, on the CPU.

        Raises:
            RunDirectoryError: The model was not saved, is damaged or belongs to another run.
        """
        file = self._model_file(mega_batch)
        if not file.exists():
            kept = ", ".join(map(str, self.models)) or "none"
            raise RunDirectoryError(
                f"{file} is not there: of the mega-batches of {self.path}, the models of {kept} are kept; "
                "--keep-models all keeps each"
            )
        held = self._load_entry(file, mega_batch, "model")
        for name, value in held.items():
            if not isinstance(value, torch.Tensor) or bool(value.isnan().any()):
                raise RunDirectoryError(
                    f"{file} is damaged: '{name}' is no tensor or holds NaN; the same run again makes it"
                )
        return held

    def save_masks(self, mega_batch: int, masks: Mapping[str, Any]) -> None:
        """Save the masks after a mega-batch, in the form of :meth:`forgetkit.unlearning.MaskRecorder.state`."""
        file = self._masks_file(mega_batch)
        digest = save_state(file, {"mega_batch": mega_batch, "masks": dict(masks)})
        self._write_note(file, {"mega_batch": mega_batch, "state_sha256": digest})

    def masks_of(self, mega_batch: int) -> dict[str, Any]:
        """Load what :meth:`save_masks` saved; ``RunDirectoryError`` if it is missing or damaged."""
        return self._load_entry(self._masks_file(mega_batch), mega_batch, "masks")

    def _load_entry(self, file: Path, mega_batch: int, what: str) -> dict[str, Any]:
        """An entry of a saved state, which must be of that mega-batch and of this run."""
        try:
            noted = self._read_note(file.with_suffix(".json"))
            state = load_state(file, str(noted.get("state_sha256")))
            if state.get("mega_batch") != mega_batch:
                raise RunDirectoryError(f"{file} is that of mega-batch {state.get('mega_batch')}")
            held = state.get(what)
            if not isinstance(held, dict):
                raise RunDirectoryError(f"{file} holds no {what}")
            return held
        except RunDirectoryError as error:
            raise RunDirectoryError(f"{error}; the same run again makes it") from error

    def save_checkpoint(self, point: Checkpoint) -> Path:
        """Save a checkpoint; remove all others except the intact one before it.

        The state is written before its note: whenever the process dies, a state with a note is intact, or its digest
        shows the damage.
        """
        epoch_progress = point.state.get("epoch_progress")
        name = f"resume-{point.state['mega_batch']:03}-{point.state['epochs_done']:04}"
        name += "" if epoch_progress is None else f"-{epoch_progress['steps']:06}"
        file = self._checkpoints / f"{name}.pt"
        digest = save_state(file, point.state)
        self._write_rows(point.rows)
        self._write_note(file, {"state_sha256": digest, "rows": len(point.rows), "seconds": point.seconds})
        self.passed_over.discard(file.stem)
        whole = [note.stem for note in self._notes() if note.stem not in self.passed_over]
        kept = [stem for stem in whole if _checkpoint_position(stem) <= _checkpoint_position(file.stem)][:2]
        self._drop([old for old in self._all(_STATE) if old.stem not in kept])
        return file

    def newest_state(self) -> Path | None:
        """The file of the newest checkpoint that has a note."""
        return next((note.with_suffix(".pt") for note in self._notes()), None)

    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that is intact and of this run; None if the run has written none.

        Raises:
            RunDirectoryError: There are checkpoints, and none can be used.
        """
        found = self.newest_usable(dict)
        return None if found is None else found[1]

    def newest_usable(self, restore: Callable[[dict[str, Any]], _T]) -> tuple[_T, Checkpoint] | None:
        """Restore the newest checkpoint that is intact, of this run and possible.

        Returns:
            What ``restore`` returns for its state, and the checkpoint; None if the run has written none.

        Raises:
            RunDirectoryError: There are checkpoints, and none can be used.
        """
        damage: RunDirectoryError | None = None
        for note in self._notes():
            try:
                noted = self._read_note(note)
                state = load_state(note.with_suffix(".pt"), str(noted.get("state_sha256")))
                rows = tuple(self._row(index) for index in range(1, _finished_mega_batch(state, noted)))
                return restore(state), Checkpoint(state, rows, float(noted["seconds"]), str(damage or ""))
            except torch.OutOfMemoryError:
                raise
            except _IMPOSSIBLE as error:
                damage = RunDirectoryError(f"{note} is damaged: {error_line(error)}")
            except RunDirectoryError as error:
                damage = error
            self.passed_over.add(note.stem)
        if damage is not None:
            raise RunDirectoryError(
                f"{damage}, and no state can be resumed: put a copy of the file back, or take "
                f"{self._checkpoints}/resume-* away to begin from the start"
            )
        return None

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``result.json``, after which the run is finished; return its content."""
        return write_with_digest(self.path / "result.json", result)

    def drop_checkpoints(self) -> None:
        """Remove what only an unfinished run needs: checkpoints to resume from, then the rows beside them.

        A file that cannot be removed stays, with a warning: the run is finished all the same.
        """
        try:
            self._drop(self._all(_STATE))
            self._drop(self._all(_ROW))
        except (RecordError, RunDirectoryError) as error:
            _log.warning("%s", error)

    def _require_its_own_files(self) -> None:
        """Refuse links, through which nothing may be written, and folders in place of files."""
        folder, ours = (
            self._checkpoints,
            [self.path / name for name in ("manifest.json", "events.jsonl", "result.json")],
        )
        if folder.exists() and not folder.is_dir():
            raise RunDirectoryError(f"{folder} is no folder of this run: take it away, or put the folder back")
        links = [file for file in ours[:2] if file.is_symlink()]
        others = (file for file in (*ours, *folder.glob("*.pt"), *folder.glob("*.json")) if file.exists())
        for file in (*links, *(file for file in others if not file.is_file())):
            raise RunDirectoryError(f"{file} is no file of this run: take it away, or put the file back")

    @property
    def _checkpoints(self) -> Path:
        return own_folder(self.path / "checkpoints")

    def _model_file(self, mega_batch: int) -> Path:
        return self._checkpoints / f"mega-batch-{mega_batch:03}.pt"

    def _masks_file(self, mega_batch: int) -> Path:
        return self._checkpoints / f"masks-{mega_batch:03}.pt"

    def _all(self, named: re.Pattern[str]) -> list[Path]:
        """The files whose stem matches ``named``, and their notes, by name."""
        try:
            files = sorted(self._checkpoints.iterdir())
        except OSError:
            return []
        return [file for file in files if file.suffix in (".json", ".pt") and named.fullmatch(file.stem)]

    def _drop(self, files: Sequence[Path]) -> None:
        """Remove files, notes first: a checkpoint without a note is never used."""
        try:
            for file in sorted(files, key=lambda file: file.suffix):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise RecordError(f"cannot remove {file}: {error.strerror}") from error

    def _write_note(self, file: Path, content: Mapping[str, Any]) -> None:
        write_with_digest(file.with_suffix(".json"), {"run_id": self.run_id, **content})

    def _read_note(self, note: Path) -> dict[str, Any]:
        content = read_with_digest(note)
        if content.get("run_id") != self.run_id:
            raise RunDirectoryError(f"{note} belongs to another run")
        return content

    def _write_rows(self, rows: Sequence[MegaBatchResult]) -> None:
        """Write the rows that are not on the disk yet, in order, so that there is never a gap."""
        missing: list[tuple[Path, bytes]] = []
        for row in reversed(rows):
            file = self._row_file(row.index)
            content = as_json(with_digest({"run_id": self.run_id, "row": dataclasses.asdict(row)}))
            with contextlib.suppress(OSError):
                if safe_open.read_bytes(file) == content:
                    break
            missing.append((file, content))
        for file, content in reversed(missing):
            write_atomically(file, content)

    def _row(self, mega_batch: int) -> MegaBatchResult:
        """Read a row from its file or, if that is damaged, from its event."""
        file = self._row_file(mega_batch)
        try:
            row = parse_row(self._read_note(file)["row"])
            if row.index != mega_batch:
                raise RunDirectoryError(f"{file} is the row of mega-batch {row.index}")
        except (KeyError, RunDirectoryError, TypeError, ValueError):
            recorded = self._row_from_events(mega_batch)
            if recorded is None:
                raise
            return parse_row(recorded)
        return row

    def _row_from_events(self, mega_batch: int) -> dict[str, Any] | None:
        """The row in the last event about the end of this mega-batch."""
        found: dict[str, Any] | None = None
        for event in self.events():
            if event.get("event") == "mega_batch_ended" and event["row"]["index"] == mega_batch:
                found = event["row"]
        return found

    def _row_file(self, mega_batch: int) -> Path:
        return self._checkpoints / f"resume-row-{mega_batch:03}.json"

    def _notes(self) -> list[Path]:
        """The notes of checkpoints, newest first."""
        notes = (file for file in self._all(_STATE) if file.suffix == ".json")
        return sorted(notes, key=lambda note: _checkpoint_position(note.stem), reverse=True)


def result_from(text: bytes, file: Path) -> dict[str, Any]:
    """The content of a ``result.json``, its digest included; ``RunDirectoryError`` if it is damaged."""
    try:
        content = as_object(text)
    except ValueError as error:
        raise RunDirectoryError(f"{file} is damaged: {error}") from error
    require_result(without_digest(content, str(file)), SCHEMA, str(file))
    return content


def resume_command(path: Path) -> str:
    """The shell command that resumes the run in that directory."""
    return shlex.join(["forgetkit", "run", "--resume", str(path)])


def _finished_mega_batch(state: Mapping[str, Any], noted: Mapping[str, Any]) -> int:
    """The mega-batch of a state, checked against its note."""
    index, rows, seconds = state["mega_batch"], noted["rows"], noted["seconds"]
    if type(index) is not int or type(rows) is not int or rows != index - 1 or rows < 0:
        raise ValueError(f"{rows} rows are no record of what came before mega-batch {index}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise ValueError(f"it has taken {seconds} seconds")
    return index


def _make_folder(out: Path, name: str, *, numbered: bool) -> Path:
    """Create the folder ``out/name``, or one with a number if ``numbered``."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    path = out
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in (out / each for each in names):
            try:
                path.mkdir()
            except FileExistsError:
                if not numbered or not out.is_dir():
                    raise
            else:
                break
        for folder in (path, *new):
            sync_folder(folder.parent)
    except FileExistsError as error:
        if path == out or not os.path.lexists(path):
            raise RunDirectoryError(f"cannot make {out / name}: {out} is a file, not a folder") from error
        resumable = (path / "manifest.json").exists() and not RunDirectory(path).finished
        remedy = f", or resume it: {resume_command(path)}" if resumable else ""
        raise RunDirectoryError(f"{path} exists already: choose another --name{remedy}") from error
    except OSError as error:
        raise RunDirectoryError(
            f"cannot make {out / name}: {error.strerror}; choose a folder you may write to with --out"
        ) from error
    return path


def _checkpoint_position(stem: str) -> tuple[int, ...]:
    """The position of a checkpoint in the run: mega-batch, epochs done, steps of the next epoch."""
    match = _STATE.fullmatch(stem)
    return tuple(int(part or 0) for part in match.groups()) if match else ()


def _open_no_link(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open` that refuses links and pipes."""
    return safe_open.file_opener(path, flags | getattr(os, "O_NOFOLLOW", 0))
