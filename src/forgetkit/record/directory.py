"""A run's directory: the manifest, the events, the checkpoints, the result.

manifest.json                   configuration, versions, digests; written first
events.jsonl                    a line per event; appended to, never rewritten
checkpoints/resume-003-0020.*   a state to go on from (mega-batch 3, 20 epochs done) with its digest
                                and how many rows there are; the newest two are kept
checkpoints/resume-row-002.json the row of mega-batch 2: written once, not again with every state
checkpoints/mega-batch-003.pt   the model that was evaluated after mega-batch 3
result.json                     written last
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgetkit.contracts import MegaBatchRow
from forgetkit.errors import RecordError, RunDirectoryError
from forgetkit.record.checkpoints import load_state, save_state
from forgetkit.record.files import as_json, read_json, write_atomically, write_json

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class ResumePoint:
    """Where a run can go on: the state, the finished rows, the seconds spent on them and on the unfinished one.

    ``damage`` says what was wrong with a newer state that was passed over.
    """

    state: dict[str, Any]
    rows: tuple[MegaBatchRow, ...]
    seconds: float
    damage: str = ""


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run."""

    path: Path

    @classmethod
    def create(cls, out: Path, name: str, manifest: Mapping[str, Any]) -> RunDirectory:
        """A new folder ``out/name`` with its manifest; an existing one is refused, never reused."""
        path = out / name
        try:
            out.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            (path / "checkpoints").mkdir()
        except FileExistsError as error:
            if not path.exists():
                raise RunDirectoryError(f"cannot make {path}: {out} is a file, not a folder") from error
            remedy = "" if cls(path).finished else f", or go on with it by --resume {path}"
            raise RunDirectoryError(f"{path} exists already: choose another --name{remedy}") from error
        except OSError as error:
            raise RunDirectoryError(
                f"cannot make {path}: {error.strerror}; choose a folder you may write to with --out"
            ) from error
        directory = cls(path)
        try:
            write_json(path / "manifest.json", {"schema": SCHEMA, **manifest})
        except RecordError:  # a folder without a manifest is no run's
            shutil.rmtree(path)
            raise
        return directory

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """An existing run that is not finished; ``RunDirectoryError`` says why it cannot go on."""
        directory = cls(path)
        if not path.is_dir():
            raise RunDirectoryError(f"{path} is not a folder; --resume takes the directory of a run")
        if not (path / "manifest.json").exists():
            raise RunDirectoryError(f"{path} holds no manifest.json, so it is not the directory of a run")
        if directory.finished:
            raise RunDirectoryError(
                f"{path} is finished, there is nothing to resume: its result is in {path / 'result.json'}"
            )
        return directory

    @property
    def finished(self) -> bool:
        """Whether the result is written."""
        return (self.path / "result.json").exists()

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``."""
        return read_json(self.path / "manifest.json")

    def append(self, event: Mapping[str, Any]) -> None:
        """Add a line to ``events.jsonl``; one left half-written by a crash is closed off first."""
        path = self.path / "events.jsonl"
        line = json.dumps(event) + "\n"
        try:
            with path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":
                        line = "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise RecordError(f"cannot write {path}: {error.strerror}") from error

    def save_model(self, mega_batch: int, model: Mapping[str, Any]) -> Path:
        """Keep the model that was evaluated after a mega-batch."""
        path = self.path / "checkpoints" / f"mega-batch-{mega_batch:03}.pt"
        save_state(path, {"mega_batch": mega_batch, "model": dict(model)})
        return path

    def save_resume_point(self, point: ResumePoint) -> Path:
        """Add the newest state and drop all but the one before it.

        State first, then its note: whenever the process dies, what has a note is whole, or its
        digest tells that it is not.
        """
        folder = self.path / "checkpoints"
        name = f"resume-{point.state['mega_batch']:03}-{point.state['epochs_done']:04}"
        digest = save_state(folder / f"{name}.pt", point.state)
        self._keep(point.rows)
        write_json(folder / f"{name}.json", {"sha256": digest, "rows": len(point.rows), "seconds": point.seconds})
        for old in self._notes()[2:]:
            old.unlink()
            old.with_suffix(".pt").unlink(missing_ok=True)
        return folder / f"{name}.pt"

    def resume_point(self) -> ResumePoint | None:
        """The newest state that is whole; None where the run had not come to its first."""
        damage: RunDirectoryError | None = None
        for note in self._notes():
            try:
                content = read_json(note)
                state = load_state(note.with_suffix(".pt"), str(content.get("sha256")))
                rows = tuple(self._row(1 + done) for done in range(content["rows"]))
                return ResumePoint(state, rows, float(content["seconds"]), str(damage or ""))
            except (KeyError, TypeError, ValueError) as error:
                damage = RunDirectoryError(f"{note} is damaged: {error!r}")
            except RunDirectoryError as error:
                damage = error
        if damage is not None:
            raise damage
        return None

    def _keep(self, rows: Sequence[MegaBatchRow]) -> None:
        """Write the rows that are not on the disk yet, the first one first: what is there has no gap before it."""
        missing: list[tuple[Path, bytes]] = []
        for row in reversed(rows):
            file, content = self._row_file(row.index), as_json(dataclasses.asdict(row))
            if file.exists() and file.read_bytes() == content:
                break
            missing.append((file, content))
        for file, content in reversed(missing):
            write_atomically(file, content)

    def _row(self, mega_batch: int) -> MegaBatchRow:
        """From its own file or, where that is damaged, from the event that told of it."""
        try:
            return MegaBatchRow(**read_json(self._row_file(mega_batch)))
        except (RunDirectoryError, TypeError):
            told = self._told(mega_batch)
            if told is None:
                raise
            return MegaBatchRow(**told)

    def _told(self, mega_batch: int) -> dict[str, Any] | None:
        """The row in the last event that says how this mega-batch ended."""
        found: dict[str, Any] | None = None
        with contextlib.suppress(OSError):
            for line in (self.path / "events.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # one that a crash cut short
                    event = json.loads(line)
                    if event["event"] == "mega_batch_ended" and event["row"]["index"] == mega_batch:
                        found = event["row"]
        return found

    def _row_file(self, mega_batch: int) -> Path:
        return self.path / "checkpoints" / f"resume-row-{mega_batch:03}.json"

    def _notes(self) -> list[Path]:
        """The notes of resume points, newest first."""

        def place(note: Path) -> tuple[int, ...]:
            return tuple(int(part) for part in note.stem.split("-")[1:])

        notes = (self.path / "checkpoints").glob("resume-*-*.json")
        return sorted(
            (n for n in notes if n.stem.replace("-", "").removeprefix("resume").isdigit()),
            key=place,
            reverse=True,
        )

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``: from here on the run is finished."""
        write_json(self.path / "result.json", result)
