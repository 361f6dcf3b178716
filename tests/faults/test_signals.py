"""Commands stop at any time and by any signal, and can be resumed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import time
from pathlib import Path

import kills
import pytest

LEARNING = shlex.split(
    "--model dropnet --intervention pull --intervention lingers --augment crop-flip --epochs 3 --mega-batches 2"
)
WORDS = [*kills.SHARED, *LEARNING, *kills.PLUGIN]
MESSAGE = [
    "forgetkit: interrupted",
    f"to go on: forgetkit run --resume runs/r {shlex.join(kills.PLUGIN)}",
]


@pytest.fixture
def runner(workdir, fork_server):
    return kills.CommandRunner(workdir, fork_server)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, fork_server):
    """``undisturbed(words)``: the reference of such a run; each runs once."""
    runner, known = kills.CommandRunner(tmp_path_factory.mktemp("whole"), fork_server), {}
    (runner.folder / "go").touch()

    def call(words):
        if str(words) not in known:
            known[str(words)] = kills.reference(runner, words)
        return known[str(words)]

    return call


def waiting(child, number=1, seconds=60):
    """Wait until ``number`` processes of ``child`` pause; returns their ids."""
    until = time.monotonic() + seconds
    while len(found := sorted(Path().glob("here-*"))) < number:
        assert time.monotonic() < until, "no process pauses"
        assert not child.ended, child.wait()
        time.sleep(0.002)
    return [int(file.name.partition("-")[2]) for file in found]


def states(run=Path("runs/r")):
    return sorted(file.stem for file in run.glob("checkpoints/resume-*.pt"))


@pytest.fixture
def same(runner, undisturbed):
    """Resume as the command printed, and compare."""

    def check(words=WORDS):
        Path("go").touch()
        status = runner.run(["run", "--resume", "runs/r", *kills.PLUGIN, "--quiet"])
        assert (status, runner.read_stderr()) == (0, "")
        whole, run = undisturbed(words), Path("runs/r")
        assert kills.substance(json.loads((run / "result.json").read_text())) == whole.result
        assert kills.digests(run) == whole.models

    return check


def begun(runner, words=WORDS, **how):
    child = runner.start([*words, "--name", "r"], **how)
    waiting(child)
    return child


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_in_the_midst_of_an_epoch_the_step_is_finished(runner, same, name):
    child = begun(runner)
    child.signal(getattr(signal, name))
    Path("go").touch()
    assert runner.wait(child) == 130
    assert runner.read_stderr().splitlines() == MESSAGE
    assert states()[-1] == "resume-001-0001-000004"
    same()


def test_the_second_one_stops_at_once(runner, same):
    child = begun(runner)
    child.signal(signal.SIGINT)
    time.sleep(0.05)
    assert not child.ended
    child.signal(signal.SIGINT)
    assert runner.wait(child) == 130
    assert runner.read_stderr().splitlines() == MESSAGE
    assert states() == []
    same()


def test_what_is_ignored_stays_ignored(runner, undisturbed):
    """As under ``nohup``."""
    before = (kills.breaking()[0], "ignored", {"number": signal.SIGHUP})
    child = begun(runner, before=before)
    child.signal(signal.SIGHUP)
    Path("go").touch()
    assert (runner.wait(child), runner.read_stderr()) == (0, "")
    assert kills.digests(Path("runs/r")) == undisturbed(WORDS).models


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_before_the_first_step_it_ends_at_once(runner, name):
    child = begun(runner, [*kills.SHARED, *kills.PLUGIN, "--dataset", "slow"])
    child.signal(getattr(signal, name))
    assert runner.wait(child) == 130
    assert runner.read_stderr() == "forgetkit: interrupted\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "option", ["--model dropnet:hesitant=true", "--importance ponders"], ids=["evaluation", "scoring"]
)
def test_in_the_midst_of(runner, same, option):
    words = [*kills.SHARED, *shlex.split(f"--model dropnet --epochs 2 --mega-batches 2 {option}"), *kills.PLUGIN]
    child = begun(runner, words)
    child.signal(signal.SIGTERM)
    Path("go").touch()
    assert runner.wait(child) == 130
    assert runner.read_stderr().splitlines() == MESSAGE
    assert states()
    same(words)


def test_a_run_that_has_not_gone_on_yet_is_gone_on_with_later(runner, same):
    """Stopped while the data loads."""
    child = begun(runner)
    child.signal(signal.SIGKILL)
    runner.wait(child)
    plugin = Path("early.py")
    plugin.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    words = ["run", "--resume", "runs/r", *kills.PLUGIN, "--plugin", str(plugin), "--quiet"]
    assert runner.run(words) == 130
    assert runner.read_stderr().splitlines() == [MESSAGE[0], f"{MESSAGE[1]} --plugin early.py"]
    same()


GRID = [
    "ablate",
    *kills.SHARED[1:],
    *LEARNING,
    *kills.PLUGIN,
    *shlex.split("--over importance=snip,random --seeds 0-1 --jobs 2 --json"),
]


def begun_at(cell):
    """The epochs and samples of the first mega-batch done at each start of a cell."""
    lines = map(json.loads, (cell / "events.jsonl").read_text().splitlines())
    return [(line["done_epochs"], line["done_samples"]) for line in lines if line["event"] == "run_started"]


def test_both_workers_of_a_grid_leave_states(runner):
    child = runner.start([*GRID, "--out", "ablations"])
    waiting(child, 2)
    child.signal(signal.SIGTERM)
    time.sleep(0.05)  # the workers have the signal by then
    Path("go").touch()
    assert runner.wait(child) == 130
    answer = runner.read_stderr()
    assert answer.count("to go on: forgetkit ablate ") == 1
    assert Path("stdout").read_text() == ""
    cells = sorted(Path("ablations/cells").glob("*/"))
    assert [states(cell)[-1] for cell in cells] == ["resume-001-0001-000004"] * 2
    assert runner.run([*GRID, "--out", "ablations"]) == 0
    assert [[epochs for epochs, _ in begun_at(cell)] for cell in cells] == [[0, 1]] * 2
    assert all(begun_at(cell)[1][1] > begun_at(cell)[0][1] for cell in cells)
    table = Path("stdout").read_bytes()
    Path("stdout").unlink()
    assert runner.run([*GRID, "--out", "whole"]) == 0
    assert Path("stdout").read_bytes() == table


def test_two_processes_go_on_with_one_run(runner, same):
    """One resumes the run; the others name it."""
    first = begun(runner)
    first.signal(signal.SIGKILL)
    assert runner.wait(first) == -signal.SIGKILL
    shutil.copytree("runs", "copy")
    Path(f"here-{first.pid}").unlink()
    runner.read_stderr()
    words = ["run", "--resume", "runs/r", *kills.PLUGIN, "--quiet"]
    racing = [runner.start(words) for _ in range(3)]
    kills.when(lambda: sum(child.ended for child in racing) == 2)
    [holder] = waiting(next(child for child in racing if not child.ended))
    losers = [child for child in racing if child.pid != holder]
    assert len(losers) == 2
    assert [runner.wait(child) for child in losers] == [2, 2]
    lines = runner.read_stderr().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("forgetkit: runs/r is in use by ")
        assert f"process {holder} on {os.uname().nodename} since " in line
    Path("go").touch()
    [winner] = [child for child in racing if child.pid == holder]
    assert (runner.wait(winner), runner.read_stderr()) == (0, "")
    shutil.rmtree("runs")
    Path("copy").rename("runs")
    same()
