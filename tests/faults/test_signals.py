"""Real commands that are asked to stop, at any time and by any signal, leave what can be gone on with."""

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
TOLD = [
    "forgetkit: interrupted",
    f"to go on: forgetkit run --resume runs/r {shlex.join(kills.PLUGIN)}",
]


@pytest.fixture
def bench(workdir, nursery):
    return kills.Bench(workdir, nursery)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, nursery):
    """``undisturbed(words)``: what such a run comes to in peace; each carried out once."""
    bench, known = kills.Bench(tmp_path_factory.mktemp("whole"), nursery), {}
    (bench.folder / "go").touch()

    def call(words):
        if str(words) not in known:
            known[str(words)] = kills.reference(bench, words)
        return known[str(words)]

    return call


def waiting(child, number=1, seconds=60):
    """The processes that wait in the midst of something, once there are so many: ``child``, or what it has started."""
    until = time.monotonic() + seconds
    while len(found := sorted(Path().glob("here-*"))) < number:
        assert time.monotonic() < until, "nobody waits"
        assert not child.ended, child.wait()
        time.sleep(0.002)
    return [int(file.name.partition("-")[2]) for file in found]


def states(run=Path("runs/r")):
    return sorted(file.stem for file in run.glob("checkpoints/resume-*.pt"))


@pytest.fixture
def same(bench, undisturbed):
    """Go on as the command said, and compare."""

    def check(words=WORDS):
        Path("go").touch()
        status = bench.ends(bench.start(["run", "--resume", "runs/r", *kills.PLUGIN, "--quiet"]))
        assert (status, bench.said()) == (0, "")
        whole, run = undisturbed(words), Path("runs/r")
        assert kills.substance(json.loads((run / "result.json").read_text())) == whole.result
        assert kills.digests(run) == whole.models

    return check


def begun(bench, words=WORDS, **how):
    child = bench.start([*words, "--name", "r"], **how)
    waiting(child)
    return child


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_in_the_midst_of_an_epoch_the_step_is_finished(bench, same, name):
    child = begun(bench)
    child.signal(getattr(signal, name))
    Path("go").touch()
    assert bench.ends(child) == 130
    assert bench.said().splitlines() == TOLD
    assert states()[-1] == "resume-001-0001-000004"
    same()


def test_the_second_one_stops_at_once(bench, same):
    child = begun(bench)
    child.signal(signal.SIGINT)
    time.sleep(0.05)
    assert not child.ended
    child.signal(signal.SIGINT)
    assert bench.ends(child) == 130
    assert bench.said().splitlines() == TOLD
    assert states() == []
    same()


def test_what_is_ignored_stays_ignored(bench, undisturbed):
    """As under ``nohup``."""
    before = (kills.breaking()[0], "ignored", {"number": signal.SIGHUP})
    child = begun(bench, before=before)
    child.signal(signal.SIGHUP)
    Path("go").touch()
    assert (bench.ends(child), bench.said()) == (0, "")
    assert kills.digests(Path("runs/r")) == undisturbed(WORDS).models


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_before_the_first_step_it_ends_at_once(bench, name):
    child = begun(bench, [*kills.SHARED, *kills.PLUGIN, "--dataset", "slow"])
    child.signal(getattr(signal, name))
    assert bench.ends(child) == 130
    assert bench.said() == "forgetkit: interrupted\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "option", ["--model dropnet:hesitant=true", "--importance ponders"], ids=["evaluation", "scoring"]
)
def test_in_the_midst_of(bench, same, option):
    words = [*kills.SHARED, *shlex.split(f"--model dropnet --epochs 2 --mega-batches 2 {option}"), *kills.PLUGIN]
    child = begun(bench, words)
    child.signal(signal.SIGTERM)
    Path("go").touch()
    assert bench.ends(child) == 130
    assert bench.said().splitlines() == TOLD
    assert states()
    same(words)


def test_a_run_that_has_not_gone_on_yet_is_gone_on_with_later(bench, same):
    """Asked to stop while the data is loaded, which a run knows from its manifest."""
    child = begun(bench)
    child.signal(signal.SIGKILL)
    bench.ends(child)
    plugin = Path("early.py")
    plugin.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    words = ["run", "--resume", "runs/r", *kills.PLUGIN, "--plugin", str(plugin), "--quiet"]
    assert bench.ends(bench.start(words)) == 130
    assert bench.said().splitlines() == [TOLD[0], f"{TOLD[1]} --plugin early.py"]
    same()


GRID = [
    "ablate",
    *kills.SHARED[1:],
    *LEARNING,
    *kills.PLUGIN,
    *shlex.split("--over importance=snip,random --seeds 0-1 --jobs 2 --json"),
]


def begun_at(cell):
    """How far it was each time when it was begun and gone on with: epochs and samples of the first mega-batch."""
    lines = map(json.loads, (cell / "events.jsonl").read_text().splitlines())
    return [(line["done_epochs"], line["done_samples"]) for line in lines if line["event"] == "run_started"]


def test_both_workers_of_a_grid_leave_states(bench):
    child = bench.start([*GRID, "--out", "ablations"])
    waiting(child, 2)
    child.signal(signal.SIGTERM)
    time.sleep(0.05)  # the workers are asked by then
    Path("go").touch()
    assert bench.ends(child) == 130
    said = bench.said()
    assert said.count("to go on: forgetkit ablate ") == 1
    assert Path("stdout").read_text() == ""
    cells = sorted(Path("ablations/cells").glob("*/"))
    assert [states(cell)[-1] for cell in cells] == ["resume-001-0001-000004"] * 2
    assert bench.ends(bench.start([*GRID, "--out", "ablations"])) == 0
    assert [[epochs for epochs, _ in begun_at(cell)] for cell in cells] == [[0, 1]] * 2
    assert all(begun_at(cell)[1][1] > begun_at(cell)[0][1] for cell in cells)
    table = Path("stdout").read_bytes()
    Path("stdout").unlink()
    assert bench.ends(bench.start([*GRID, "--out", "whole"])) == 0
    assert Path("stdout").read_bytes() == table


def test_two_processes_go_on_with_one_run(bench, same):
    """One of them does; the other says who has it."""
    first = begun(bench)
    first.signal(signal.SIGKILL)
    assert bench.ends(first) == -signal.SIGKILL
    shutil.copytree("runs", "copy")
    Path(f"here-{first.pid}").unlink()
    bench.said()
    words = ["run", "--resume", "runs/r", *kills.PLUGIN, "--quiet"]
    racing = [bench.start(words) for _ in range(3)]
    kills.when(lambda: sum(child.ended for child in racing) == 2)
    [holder] = waiting(next(child for child in racing if not child.ended))
    losers = [child for child in racing if child.pid != holder]
    assert len(losers) == 2
    assert [bench.ends(child) for child in losers] == [2, 2]
    lines = bench.said().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("forgetkit: runs/r is in use by ")
        assert f"process {holder} on {os.uname().nodename} since " in line
    Path("go").touch()
    [winner] = [child for child in racing if child.pid == holder]
    assert (bench.ends(winner), bench.said()) == (0, "")
    shutil.rmtree("runs")
    Path("copy").rename("runs")
    same()
