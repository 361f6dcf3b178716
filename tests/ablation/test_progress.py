"""How far cells are: records written by hand, read by one thread and by two."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forgetkit.ablation.progress import ProgressReader
from forgetkit.contracts import EpochEnded, RunStarted
from forgetkit.results.cell_store import CellStore
from forgetkit.storage import line_of

CELLS = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def record(pool: CellStore, digest: str, *events: dict[str, Any]) -> None:
    path = pool.directory(digest)
    path.mkdir(parents=True, exist_ok=True)
    with (path / "events.jsonl").open("ab") as file:
        file.writelines(map(line_of, events))


def started(done_samples: int = 0) -> dict[str, Any]:
    begun = RunStarted(
        run="r",
        directory="r",
        method="lure",
        config={},
        parameters=1,
        mega_batches=1,
        epochs=10,
        samples=(100,),
        done_samples=done_samples,
    )
    return {"event": "run_started", **dataclasses.asdict(begun)}


def epoch(number: int) -> dict[str, Any]:
    ended = EpochEnded(mega_batch=1, epoch=number, epochs=10, loss=0.1, accuracy=0.9, lr=0.1, samples=10, seconds=0.1)
    return {"event": "epoch_ended", **dataclasses.asdict(ended)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds, to be put forward."""
    now = [0.0]
    monkeypatch.setattr("forgetkit.ablation.progress.time.monotonic", lambda: now[0])
    return now


def test_the_pace_is_that_of_the_cells_that_were_seen_to_begin(tmp_path: Path, clock: list[float]) -> None:
    pool = CellStore(tmp_path)
    record(pool, CELLS[0], started())
    follower = ProgressReader(pool, CELLS, _seconds=clock[0])
    clock[0] = 10.0
    for digest in CELLS[:2]:  # another process finished one before, and one without a record
        follower.end(digest)
    assert (follower.share(), follower.left()) == (0.5, None)
    record(pool, CELLS[2], started(done_samples=50), epoch(6))
    assert follower.left() == pytest.approx(10 / 0.1 * 1.4)
    record(pool, CELLS[2], *map(epoch, (7, 8, 9, 10)))
    clock[0] = 20.0
    follower.end(CELLS[2])
    assert follower.left() == pytest.approx(20 / 0.5 * 1)


def test_a_cell_that_begins_and_ends_between_two_looks_counts(tmp_path: Path, clock: list[float]) -> None:
    pool = CellStore(tmp_path)
    follower = ProgressReader(pool, CELLS, _seconds=clock[0])
    record(pool, CELLS[0], started(), *map(epoch, range(1, 11)))
    clock[0] = 5.0
    follower.end(CELLS[0])
    assert follower.left() == pytest.approx(15)


def test_a_line_that_is_damaged_tells_nothing(tmp_path: Path, clock: list[float]) -> None:
    pool = CellStore(tmp_path)
    follower = ProgressReader(pool, CELLS, _seconds=clock[0])
    record(pool, CELLS[0], started(), epoch(1), epoch(9))
    path = pool.directory(CELLS[0]) / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"epoch": 9, "epochs": 10', b'"epoch": 8, "epochs": 10'))
    assert follower.running()[CELLS[0]].epoch == 1


class Crossing(CellStore):
    """A folder in which two readers meet, if they can be there at the same time."""

    meeting: threading.Barrier | None = None

    def directory(self, digest: str) -> Path:
        if Crossing.meeting is not None:
            Crossing.meeting.wait()
        return super().directory(digest)


@pytest.mark.parametrize(
    "other", [ProgressReader.running, ProgressReader.left, lambda follower: follower.end(CELLS[1])]
)
def test_two_threads_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Callable[[ProgressReader], Any]
) -> None:
    follower = ProgressReader(Crossing(tmp_path), CELLS[:2])
    monkeypatch.setattr(Crossing, "meeting", threading.Barrier(2, timeout=0.2))
    with ThreadPoolExecutor(2) as threads:
        for answer in [threads.submit(other, follower), threads.submit(follower.share)]:
            assert isinstance(answer.exception(), threading.BrokenBarrierError)
