"""``local``: workers that do all tasks, die without harm, and never outlive whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import executor_tasks as errands

from forgetkit import testing
from forgetkit.builtin.executors import local
from forgetkit.builtin.executors.local import Local
from forgetkit.contracts import WorkerLost
from forgetkit.system import openmp

pytestmark = pytest.mark.children

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from helpers import executor_tasks
from forgetkit.builtin.executors.local import Local
open("ran", "a").write("once\\n")
try:
    print(list(Local(jobs=2, devices=None).execute(executor_tasks.hang, [{folder!r}, {folder!r}])))
except KeyboardInterrupt:
    sys.exit(130)
"""

LEFT = "the worker process left with exit status {}"


def pids(folder: Path, count: int) -> list[int]:
    """The processes that have left their ids in a folder, once there are so many."""
    while len(found := [int(file.stem) for file in folder.glob("*.pid")]) < count:
        time.sleep(0.01)
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def vanished(pids: list[int]) -> bool:
    """Whether they come to their end, each of which somebody has sent a signal."""
    until = time.monotonic() + 30
    while any(map(running, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(map(running, pids))


@pytest.fixture
def started(monkeypatch):
    """The ids of the processes that are started from now on."""
    found = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return found


def test_it_keeps_the_promises() -> None:
    verdicts = testing.examine("executors", "local:jobs=2,devices=none")
    assert {verdict.status for verdict in verdicts} == {"kept"}, verdicts


def test_answers_come_as_they_finish(tmp_path) -> None:
    first, second, third = (str(tmp_path / name) for name in ("first", "second", "third"))
    tasks = [(third, first), ("", second), (second, third)]  # the first waits for the last
    yielded = list(Local(jobs=2, devices=None).execute(errands.await_each_other, tasks))
    assert yielded[0] == (1, second)
    assert sorted(yielded) == [(0, first), (1, second), (2, third)]


@pytest.mark.parametrize(("jobs", "tasks", "expected"), [(1, 4, 1), (5, 2, 2), (3, 0, 0)])
def test_at_most_one_worker_per_task_each_started_once(started, jobs, tasks, expected) -> None:
    answers = dict(Local(jobs=jobs, devices=None).execute(errands.pid, range(tasks)))
    assert sorted(answers) == list(range(tasks))
    assert len(started) == expected
    assert set(answers.values()) <= set(started)
    assert not any(map(running, started))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_worker_that_dies_loses_its_own_task(jobs) -> None:
    tasks = ["SIGKILL", "fine", "status", "exit", "leaving a child", "SIGINT", "stopped"]
    answers = dict(Local(jobs=jobs, devices=None).execute(errands.die, tasks))
    assert answers == {
        0: WorkerLost("the worker process was killed by SIGKILL", -9),
        1: "fine",
        2: WorkerLost(LEFT.format(3), 3),
        3: WorkerLost(LEFT.format(4), 4),
        4: WorkerLost(LEFT.format(5), 5),
        5: "SIGINT",  # whoever waits for the answers decides what that means
        6: WorkerLost(LEFT.format(130), 130),
    }


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ("value", ValueError, "^out of range"),
        ("awkward", RuntimeError, "^AwkwardError: to pickle$"),
        ("answer", Exception, "pickle"),
    ],
)
def test_what_work_raises_reaches_the_caller(task, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        list(Local().execute(errands.fail, [task]))
    if error is ValueError:
        assert "in fail" in caught.value.__notes__[0]


def test_an_exception_ends_the_other_workers(tmp_path, started) -> None:
    under_way = Local(jobs=2, devices=None).execute(errands.hang, [str(tmp_path), "", lambda: None])
    with pytest.raises(Exception, match="pickle"):
        list(under_way)
    assert len(started) == 2
    assert not any(map(running, started))


@pytest.mark.parametrize("manner", ["", "stubborn"])
def test_closed_early_it_leaves_nothing_behind(tmp_path, monkeypatch, started, manner) -> None:
    if manner:
        monkeypatch.setattr(local, "_GRACE", 0.1)
    folder = f"{manner}{tmp_path}"
    under_way = Local(jobs=2, devices=None).execute(errands.hang, ["", folder, folder])
    next(under_way)
    found = pids(tmp_path, 4)  # two workers, and what each has started
    assert set(started) < set(found)
    assert all(map(running, found))
    under_way.close()
    assert not any(map(running, started))
    assert vanished(found)


def test_what_a_worker_has_started_goes_with_it(tmp_path) -> None:
    assert dict(Local().execute(errands.die_over_a_child, [str(tmp_path)])) == {0: WorkerLost(LEFT.format(3), 3)}
    assert vanished(pids(tmp_path, 1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_do_not_outlive_their_parent(tmp_path, number) -> None:
    script = tmp_path / "script.py"  # without a guard: a worker must not run it again
    script.write_text(SCRIPT.format(here=str(Path(__file__).parents[2]), folder=str(tmp_path)))
    with subprocess.Popen([sys.executable, script], cwd=tmp_path, start_new_session=True) as parent:
        found = pids(tmp_path, 4)
        assert all(map(running, found))
        os.killpg(parent.pid, number)
        assert parent.wait() == (130 if number == signal.SIGINT else -number)
    assert vanished(found)
    assert (tmp_path / "ran").read_text() == "once\n"


def test_what_a_task_prints_goes_to_stderr(capfd) -> None:
    list(Local().execute(errands.speak, ["here"]))
    list(Local().execute(errands.die, ["status"]))  # without time to write what is held back
    said = capfd.readouterr()
    assert said.out == ""
    assert sorted(said.err.splitlines()) == ["forgetkit: careful", "last words", "printed here", "written"]


@pytest.mark.parametrize(
    ("options", "asked", "threads"),
    [
        ({"jobs": 2}, None, "4"),
        ({"jobs": 3}, None, "2"),
        ({"jobs": 100}, None, "1"),
        ({"jobs": 3, "threads": 5}, None, "5"),
        ({"threads": 5}, None, "5"),
        ({"jobs": 2}, "6", "3"),
        ({}, "6", "6"),
        ({}, None, None),
    ],
)
def test_the_cores_are_divided(monkeypatch, options, asked, threads) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    for name in local._THREADS:
        monkeypatch.delenv(name, raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    found = dict(Local(devices=None, **options).execute(errands.environment, ["OMP_NUM_THREADS"]))
    assert found == {0: threads}


def test_torch_has_the_threads_and_is_imported_by_the_task(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert dict(Local(threads=1).execute(errands.threads, [None])) == {0: 1}
    assert dict(Local().execute(errands.torch_is_there, [None])) == {0: False}


@pytest.mark.parametrize(
    ("chosen", "policy", "blocktime"),
    [
        ({}, "PASSIVE", "0"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", None),
        ({"GOMP_SPINCOUNT": "9"}, None, None),
        ({"KMP_BLOCKTIME": "20"}, None, "20"),
        ({"KMP_LIBRARY": "turnaround"}, None, None),
    ],
)
def test_threads_of_a_worker_wait_asleep_unless_told(monkeypatch, chosen, policy, blocktime) -> None:
    for name in openmp._CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    found = dict(Local().execute(errands.environment, ["OMP_WAIT_POLICY", "KMP_BLOCKTIME"]))
    assert found == {0: policy, 1: blocktime}


@pytest.mark.parametrize(
    ("devices", "visible", "seen"),
    [
        ("auto", None, ["0", "1", "0"]),
        ("auto", "5,GPU-a,-1,6", ["5", "GPU-a", "5"]),
        ("3", None, ["3", "3", "3"]),
        ("1,0", "7", ["1", "0", "1"]),
        (None, "7", ["7", "7", "7"]),
        (None, None, [None, None, None]),
    ],
)
def test_the_devices_are_dealt_out_in_turn(monkeypatch, devices, visible, seen) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environments = Local(jobs=3, devices=devices)._environments(3)
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in environments] == seen


def test_without_devices_a_worker_sees_those_of_its_parent(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert Local()._environments(1) == [dict(os.environ)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert {each["CUDA_VISIBLE_DEVICES"] for each in Local(jobs=2)._environments(2)} == {""}
