"""Two processes on one run: one works on it, the other gets an error that names it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from forgetkit import config
from forgetkit.ablation.worker import CellResult, Task, run_cell
from forgetkit.engine.run import run_plan
from forgetkit.errors import RunDirectoryError, RunInUseError
from forgetkit.registry import registry
from forgetkit.results.cell_store import CellStore
from forgetkit.storage import RunDirectory
from forgetkit.system import file_lock

HOLD = """
import dataclasses, pathlib, time, forgetkit

@dataclasses.dataclass(frozen=True)
class Hold:
    '''Waits while there is a file of that name.'''

    def notify(self, event):
        pathlib.Path("held").touch()
        while pathlib.Path("hold").exists():
            time.sleep(0.01)

@forgetkit.hookimpl
def forgetkit_observers():
    return {"hold": Hold}
"""


def wait_for(path, seconds=60):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.005)


@pytest.fixture
def holding(start, workdir, plugin, tiny_words):
    """A run in a process of its own that waits in its midst, and what it takes to resume it."""
    (workdir / "hold").touch()
    file = plugin("hold", HOLD)
    child = start([*tiny_words, "--plugin", file, "--observer", "hold", "--name", "r", "--quiet"])
    wait_for(workdir / "runs" / "r" / "run.holder.json")
    return child, ["run", "--resume", workdir / "runs" / "r", "--plugin", file]


def test_the_holder_is_named(holding, cli, workdir):
    child, resume = holding
    run = workdir / "runs" / "r"
    answer = cli(*resume)
    assert (answer.status, answer.out) == (2, "")
    here = re.escape(f"forgetkit: {run} is in use by process {child.pid} on {os.uname().nodename} since ")
    assert re.fullmatch(here + r"\d\d:\d\d:\d\d \(.*\): wait for it or stop it\n", answer.err), answer.err
    (run / "run.holder.json").write_text('{"process": 1}')
    assert cli(*resume).err == f"forgetkit: {run} is in use by another process: wait for it or stop it\n"
    (workdir / "hold").unlink()
    assert child.wait() == 0
    assert not [file for file in run.iterdir() if file.name.startswith("run.")]
    assert "nothing left to do" in cli(*resume).out


def test_a_process_that_is_killed_holds_nothing(holding, cli, workdir, substance, tiny):
    child, resume = holding
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    run = workdir / "runs" / "r"
    assert (run / "run.holder.json").exists()
    (workdir / "hold").unlink()
    resumed = cli(*resume, "--json").json
    assert resumed["config"].pop("observers") == ["hold"]
    whole = tiny("--json").json
    whole["config"].pop("observers")
    assert substance(resumed) == substance(whole)
    assert not [file for file in run.iterdir() if file.name.startswith("run.")]


@pytest.mark.slow
def test_a_command_is_told_in_one_line(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, "r", {})
    monkeypatch.setattr("sys.argv", ["/bin/forgetkit", "run", "a\nb\x1b[31m", *["long"] * 99])
    with run.locked(), pytest.raises(RunInUseError) as told, run.locked():
        pass
    assert str(told.value).isprintable()
    assert "(forgetkit run 'a b [31m' long" in str(told.value)
    assert len(str(told.value)) < 300 + len(str(tmp_path))


def test_one_at_a_time(tmp_path):
    """The last to hold it takes its name away, while others wait."""
    run, inside, most, done = RunDirectory.create(tmp_path, "r", {}), [], [], []

    def work():
        while len(done) < 40:
            with contextlib.suppress(RunInUseError), RunDirectory(run.path).locked():
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()
                done.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert not list(run.path.glob("run.*"))


def test_a_lock_on_a_manifest_that_was_replaced_is_none(tmp_path, monkeypatch):
    """A copy takes the place of the manifest between our opening it and our locking it."""
    run, lock, descriptors = RunDirectory.create(tmp_path, "r", {}), file_lock._lock, []

    def late(descriptor):
        if not descriptors:
            path = run.path / "manifest.json"
            copy = path.with_name("copy")
            copy.write_bytes(path.read_bytes())
            copy.replace(path)
        descriptors.append(descriptor)
        return lock(descriptor)

    monkeypatch.setattr(file_lock, "_lock", late)
    with run.locked():
        assert len(descriptors) == 2
        assert os.path.samestat(os.fstat(descriptors[1]), (run.path / "manifest.json").stat())


@pytest.mark.slow
def test_taking_files_of_the_lock_away_lets_nobody_in(tmp_path):
    run = RunDirectory.create(tmp_path, "r", {})
    with run.locked():
        for file in run.path.iterdir():
            if file.is_file() and file.name != "manifest.json":
                file.unlink()
        with pytest.raises(RunInUseError, match="in use by another process"), RunDirectory(run.path).locked():
            pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch, number):
    run = RunDirectory.create(tmp_path, "r", {})

    def refuse(path, *args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(RunDirectoryError, match=f"r may not be written to .{os.strerror(number)}.: make it writable"):
        run.locked().__enter__()
    monkeypatch.undo()
    with run.locked():
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, "r", {})

    def refuse(descriptor):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(file_lock, "_lock", refuse)
    with pytest.raises(RunDirectoryError, match=r"manifest.json cannot be locked: No locks available"):
        run.locked().__enter__()


def test_what_happens_inside_lets_go(tmp_path):
    run = RunDirectory.create(tmp_path, "r", {})
    with pytest.raises(KeyboardInterrupt), run.locked():
        raise KeyboardInterrupt
    with run.locked():
        assert json.loads((run.path / "run.holder.json").read_text())["process"] == os.getpid()


TINY = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "epochs": 1,
    "mega_batches": 2,
    "threads": 1,
}


@pytest.mark.slow
def test_a_cell_that_is_gone_on_with_by_hand_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("forgetkit.ablation.worker._PAUSE", 0.01)
    digest = config.resolve(TINY, registry.load(entry_points=False)).digest
    task, pool = Task(str(tmp_path), digest, TINY), CellStore(tmp_path)
    run_cell(task)
    (pool.directory(digest) / "seal.json").unlink()
    with RunDirectory(pool.directory(digest)).locked():
        before = sorted(pool.directory(digest).rglob("*"))
        assert run_cell(task) is None
        waiting = threading.Thread(target=lambda: ended.append(run_cell(replace(task, wait_if_locked=True))))
        ended: list[CellResult | None] = []
        waiting.start()
        time.sleep(0.1)
        assert ended == []
        assert sorted(pool.directory(digest).rglob("*")) == before
    waiting.join()
    assert ended == [CellResult("completed")]
    assert not Path(tmp_path, "cells", f"{digest[:16]}.failed.json").exists()


def test_resuming_a_run_finished_elsewhere_leaves_it_unchanged(tiny, workdir):
    assert tiny("--name", "r").status == 0
    run = RunDirectory(workdir / "runs" / "r")
    before = (run.path / "result.json").stat()
    plan = config.resolve(run.manifest["config"], registry.load(entry_points=False))
    with pytest.raises(RunDirectoryError, match="nothing to resume"):
        run_plan(plan, cache=workdir / "cache", resume=run)
    after = (run.path / "result.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
