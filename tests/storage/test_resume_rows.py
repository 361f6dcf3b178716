"""What is written of finished mega-batches with every state to resume from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from helpers import fake_outcomes

from forgetkit.contracts import MegaBatchResult
from forgetkit.errors import RunDirectoryError
from forgetkit.storage import Checkpoint, RunDirectory, atomic_files
from forgetkit.system import safe_open

NUMBERS = {
    **{f.name: 1 for f in dataclasses.fields(MegaBatchResult) if f.name != "index"},
    "unlearn": {**fake_outcomes.UNLEARN, "layers": {f"layer.{n}": {"size": 100, "reset": 20} for n in range(20)}},
    "interventions": {},
}


def row(index: int, seconds: float = 0.1) -> MegaBatchResult:
    return MegaBatchResult(**{**NUMBERS, "index": index, "seconds": seconds})


def point(rows: list[MegaBatchResult], epochs_done: int = 0) -> Checkpoint:
    return Checkpoint({"mega_batch": len(rows) + 1, "epochs_done": epochs_done}, tuple(rows), 1.0)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path, "run", {})


def test_a_state_costs_the_same_after_many_mega_batches(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = atomic_files.write_atomically

    def counted(path: Path, content: bytes) -> None:
        written.append(len(content))
        write(path, content)

    looked: list[Path] = []
    read = safe_open.read_bytes
    monkeypatch.setattr(safe_open, "read_bytes", lambda path: looked.append(path) or read(path))
    for module in ("atomic_files", "run_directory"):
        monkeypatch.setattr(f"forgetkit.storage.{module}.write_atomically", counted)
    costs, rows = [], []
    for index in range(1, 21):
        rows.append(row(index))
        written.clear()
        directory.save_checkpoint(point(rows))
        costs.append((len(written), sum(written)))
        written.clear()
        directory.save_checkpoint(point(rows, epochs_done=1))  # in the midst of the next: no row is new
        assert len(written) == 1
    assert len(looked) <= 3 * len(rows)
    assert {count for count, _ in costs} == {2}
    assert max(size for _, size in costs) - min(size for _, size in costs) < 10  # longer numbers
    found = directory.checkpoint()
    assert found is not None
    assert found.rows == tuple(rows)


def test_what_is_done_again_replaces_what_was_there(directory: RunDirectory) -> None:
    """As after a state that was damaged: the mega-batch is learned again, in other seconds."""
    directory.save_checkpoint(point([row(1), row(2), row(3)]))
    again = [row(1), row(2, seconds=0.2)]
    directory.save_checkpoint(Checkpoint({"mega_batch": 3, "epochs_done": 2}, tuple(again), 1.0))
    found = directory.checkpoint()
    assert found is not None
    assert found.rows == tuple(again)


def test_a_row_that_is_gone_is_damage(directory: RunDirectory) -> None:
    directory.save_checkpoint(point([row(1)]))
    directory.save_checkpoint(point([row(1), row(2)]))
    (gone,) = directory.path.glob("checkpoints/resume-row-002.json")
    gone.unlink()
    found = directory.checkpoint()
    assert found is not None
    assert found.rows == (row(1),)
    assert "resume-row-002.json cannot be read" in found.damage
    gone.with_name("resume-row-001.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        directory.checkpoint()
