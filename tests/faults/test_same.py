"""The same seed gives the same result with any number of jobs, observer, folder, language and clock."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import kills
import pytest

WORDS = [
    *kills.SHARED[:-1],
    *shlex.split(
        "--model dropnet --intervention pull --replay buffer:size=9 --importance fisher:variant=sampled,samples=20 "
        "--augment crop-flip --label-noise 0.1 --shots 18 --carry best-val --val-fraction 0.3 --optimizer adamw "
        "--lr 0.01 --epochs 2 --mega-batches 3 --seed 3 --name r"
    ),
    *kills.PLUGIN,
]


@pytest.fixture
def runner(workdir, fork_server):
    return kills.CommandRunner(workdir, fork_server)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, fork_server):
    """The outcome of the quiet run."""
    runner = kills.CommandRunner(tmp_path_factory.mktemp("whole"), fork_server)
    assert runner.run([*WORDS, "--quiet"]) == 0
    return outcome(runner.folder / "runs" / "r")


def outcome(run, *but):
    result = kills.substance(json.loads((run / "result.json").read_text()))
    for option in but:
        del result["config"][option]
    return result, kills.digests(run)


def in_plain_lines(runner):
    assert runner.run(WORDS) == 0


def as_an_object(runner):
    assert runner.run([*WORDS, "--json"]) == 0
    assert kills.substance(json.loads(Path("stdout").read_text())) == outcome(Path("runs/r"))[0]


def by_a_clock_that_jumps(runner):
    clock = (kills.breaking()[0], "clock", {"seed": 1})
    assert runner.run([*WORDS, "--quiet"], clock) == 0
    times = [json.loads(line)["time"] for line in Path("runs/r/events.jsonl").read_text().splitlines()]
    assert times != sorted(times)


@pytest.mark.parametrize("way", [in_plain_lines, as_an_object, by_a_clock_that_jumps])
def test_carried_out(runner, whole, way):
    way(runner)
    assert outcome(Path("runs/r")) == whole


def test_on_a_terminal(terminal, whole):
    status, seen = terminal(WORDS)
    assert (status, "\x1b[" in seen) == (0, True)
    assert outcome(Path("runs/r")) == whole


def test_under_an_observer_that_draws(runner, whole):
    assert runner.run([*WORDS, "--observer", "draws", "--quiet"]) == 0
    result, models = outcome(Path("runs/r"), "observers")
    expected = {**whole[0], "config": {**whole[0]["config"]}}
    del expected["config"]["observers"]
    assert (result, models) == (expected, whole[1])


def test_in_another_process_folder_language_and_zone(workdir, spawn, whole):
    """In a fresh interpreter with other hashes; the other tests fork one process."""
    elsewhere = {"PYTHONHASHSEED": "123", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu", "COLUMNS": "40"}
    answer = spawn(*WORDS, "--out", workdir / "away" / "runs", "--quiet", **elsewhere)
    assert (answer.status, answer.out, answer.err) == (0, "", "")
    assert outcome(workdir / "away" / "runs" / "r") == whole


def test_one_or_two_at_a_time(runner):
    tables, results = {}, {}
    for jobs in (1, 2):
        words = [*kills.GRID, *kills.FEW, *kills.PLUGIN, "--jobs", str(jobs), "--json", "--out", f"jobs-{jobs}"]
        Path("stdout").unlink(missing_ok=True)
        assert runner.run(["ablate", *words]) == 0
        tables[jobs] = Path("stdout").read_bytes()
        cells = sorted(Path(f"jobs-{jobs}", "cells").glob("*/"))
        results[jobs] = {cell.name: outcome(cell) for cell in cells}
    assert len(results[1]) == 6
    assert tables[1] == tables[2]
    assert results[1] == results[2]
