"""A cell carried out on a device, which is faked: faults end the worker and no other cell, memory goes back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from forgetkit import config
from forgetkit.ablation import worker
from forgetkit.ablation.plan import run_tasks
from forgetkit.ablation.worker import CellResult, Task, run_cell
from forgetkit.contracts import WorkerLost
from forgetkit.errors import ForgetkitError
from forgetkit.registry import registry
from forgetkit.results.cell_store import CellStore
from forgetkit.storage import RunDirectory
from forgetkit.system.interrupts import GracefulStop, StopRequest

FAULT = "CUDA error: device-side assert triggered"
TINY = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "epochs": 1,
    "mega_batches": 2,
    "threads": 1,
}


def task(folder: Path, **options: Any) -> Task:
    asked = {**TINY, **options}
    return Task(str(folder), config.resolve(asked, registry.load(entry_points=False)).digest, asked)


class Device:
    """Answers every call with a fault, once it is broken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Any] = []
        self.broken = False
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", self.call)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: self.call("empty_cache"))

    def call(self, what: Any) -> None:
        if self.broken:
            raise torch.AcceleratorError(FAULT)
        self.calls.append(what)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


class OneAfterAnother:
    """As ``local`` does it: what ends its worker is lost."""

    def execute(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
        for place, one in enumerate(tasks):
            try:
                yield place, work(one)
            except SystemExit:
                yield place, WorkerLost("the worker process left with exit status 1")


def breaks(device: Device, error: Exception) -> Callable[..., None]:
    """A run that meets a fault, as it comes from torch or in what a component is blamed with."""

    def run(*_: Any, **__: Any) -> None:
        device.broken = True
        raise error from torch.AcceleratorError(FAULT)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.AcceleratorError(FAULT), f"AcceleratorError: {FAULT}"),
        (ForgetkitError("importance 'mine' failed"), "importance 'mine' failed"),
    ],
)
def test_after_a_fault_the_worker_ends_and_the_reason_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device, error: Exception, reason: str
) -> None:
    asked = task(tmp_path)
    monkeypatch.setattr(worker, "run_plan", breaks(device, error))
    with pytest.raises(SystemExit, match="fault of CUDA"):
        run_cell(asked)
    found = CellStore(tmp_path).find(asked.digest)
    assert (found.status, found.reason) == ("failed", reason)
    assert list(run_tasks([asked], OneAfterAnother())) == [(asked, CellResult("failed", reason))]


@pytest.mark.slow
def test_a_failure_that_is_no_fault_leaves_the_worker_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(worker, "run_plan", run)
    assert run_cell(task(tmp_path, epochs=2)) == CellResult("failed", "OutOfMemoryError: CUDA out of memory")
    assert device.calls == [None, "empty_cache"]


def test_lost_worker_reason_replaces_an_earlier_failure_reason(tmp_path: Path) -> None:
    class Dying:
        def execute(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
            yield 0, WorkerLost("killed")

    pool, asked = CellStore(tmp_path), task(tmp_path)
    pool.fail(asked.digest, "failed", "the first reason")
    known = Task(asked.folder, asked.digest, asked.options, failed_at=pool.find(asked.digest).failed_at)
    assert list(run_tasks([known], Dying())) == [(known, CellResult("failed", "killed"))]
    assert pool.find(asked.digest).reason == "killed"


def test_a_worker_that_was_asked_to_stop_fails_nothing(tmp_path: Path) -> None:
    class Stopping:
        def execute(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
            yield 0, WorkerLost("the worker process left with exit status 130", 130)

    asked = task(tmp_path)
    assert list(run_tasks([asked], Stopping())) == [
        (asked, CellResult("missing", "stopped; the same command resumes it"))
    ]
    assert CellStore(tmp_path).find(asked.digest).status == "missing"
    assert run_cell(asked) == CellResult("completed")
    assert list(run_tasks([asked], Stopping())) == [(asked, CellResult("completed"))]


def test_stop_requested_at_the_end_of_a_run_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*given: Any, stop: StopRequest, **more: Any) -> None:
        run(*given, stop=stop, **more)
        with stop.deferred():
            stop.request()

    run, asked = worker.run_plan, task(tmp_path)
    monkeypatch.setattr(worker, "run_plan", late)
    with pytest.raises(GracefulStop):
        run_cell(asked)
    assert CellStore(tmp_path).find(asked.digest).status == "completed"


def test_cell_finished_meanwhile_is_completed_without_a_rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, pool = task(tmp_path), CellStore(tmp_path)
    assert run_cell(asked) == CellResult("completed")
    path = pool.directory(asked.digest)
    (path / "seal.json").unlink()
    before = (path / "result.json").stat().st_ino
    monkeypatch.setattr(CellStore, "open_unfinished", lambda pool, digest: RunDirectory(path))  # as a moment before
    assert run_cell(asked) == CellResult("completed")
    assert pool.find(asked.digest).status == "completed"
    assert (path / "result.json").stat().st_ino == before


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "waited_for"), [("cuda:1", "cuda:1"), ("auto", None)])
def test_memory_goes_back_to_the_device_after_each_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device, asked: str, waited_for: str | None
) -> None:
    monkeypatch.setattr(worker, "_run_locked", lambda task, stop: CellResult("completed"))
    assert run_cell(Task(str(tmp_path), "0" * 64, {"device": asked})) == CellResult("completed")
    assert device.calls == [waited_for, "empty_cache"]


def test_without_cuda_nothing_is_asked_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(worker, "_run_locked", lambda task, stop: CellResult("completed"))
    device.broken = True
    assert run_cell(Task(str(tmp_path), "0" * 64, {})) == CellResult("completed")
    assert device.calls == []
