"""Runs and grids that are killed, lose their disk or their power give the undisturbed result.

``python tests/faults/kills.py --runs 100 --calls 1 --ablations 1`` does the same many more times.
"""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import kills
import pytest
from helpers import fault_injection


@pytest.fixture
def runner(workdir, fork_server):
    return kills.CommandRunner(workdir, fork_server)


@pytest.fixture(scope="module")
def small(tmp_path_factory, fork_server):
    """A run of a few steps, with a checkpoint after each."""
    return kills.SmallRun.create(kills.CommandRunner(tmp_path_factory.mktemp("small"), fork_server))


@pytest.mark.parametrize("runs", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments(runner, runs):
    lines = []
    assert kills.killed_runs(runner, runs, 1, lines.append), lines
    assert lines[-1].startswith(f"{runs} of {runs} identical (")
    assert int(re.search(r"\((\d+) kills", lines[-1])[1]) >= runs


@pytest.mark.parametrize("step", [79, pytest.param(13, marks=pytest.mark.long)])
@pytest.mark.parametrize("fault", kills.FAULTS)
def test_faults_at_calls_that_change_files(small, fault, step):
    """At every ``step``-th call, from another one on for each fault."""
    for at in range(2 + 7 * kills.FAULTS.index(fault), len(small.calls) + 1, step):
        small.break_at(fault, at, seed=at)


@pytest.fixture(scope="module")
def grid(tmp_path_factory, fork_server):
    """A grid of two cells."""
    return kills.SmallGrid.create(kills.CommandRunner(tmp_path_factory.mktemp("grid"), fork_server))


@pytest.mark.parametrize(("fault", "at"), [("EIO", 8), ("ENOSPC", 60), ("SIGTERM", 71), ("EROFS", 150)])
def test_a_grid_is_broken_at_a_call_that_changes_a_file(grid, fault, at):
    grid.break_at(fault, at)


def test_a_worker_dies_between_a_result_and_its_seal(grid):
    grid.break_at("kill", next(int(call.split()[0]) for call in grid.calls if "/.seal.json" in call))


@pytest.mark.parametrize("seed", range(3))
def test_what_a_command_says_is_done_outlasts_a_loss_of_power(runner, small, seed):
    (runner.folder / "runs").mkdir()
    disturbed = kills.KilledRun(runner, small.words, small.whole, random.Random(seed))
    assert runner.wait(disturbed.begin(kills.breaking(fault="power", seed=seed))) == 0
    assert (disturbed.run / "result.json").exists()
    disturbed.finish(0)


def test_a_grid_is_killed_again_and_again(runner):
    ablated = kills.KilledGrid(runner, kills.FEW, random.Random(4))
    ablated.check(3)
    assert len(ablated.kills) == 3


# The harness itself


def test_a_run_that_comes_to_something_else_is_told(runner, small):
    whole = kills.Reference({**small.whole.result, "samples_seen": -1}, small.whole.models, 1.0, small.whole.calls)
    disturbed = kills.KilledRun(runner, small.words, whole, random.Random(0))
    with pytest.raises(kills.BrokenPromiseError, match=r"another result: \.samples_seen: -1 became \d+"):
        disturbed.finish(0)


def left_on(folder, seed, *, synced):
    """The files that a loss of power leaves: one was replaced, one written, and ``synced`` were synced."""
    folder.mkdir()
    Path(folder, "old").write_bytes(b"old")
    disk = fault_injection.Disk(str(folder))
    for name in ("new", "temporary"):
        Path(folder, name).write_bytes(b"content")
        disk.opened(str(folder / name))
    if "file" in synced:
        disk.synced(str(folder / "temporary"))
    disk.capture(str(folder / "old"))
    Path(folder, "temporary").replace(folder / "old")
    disk.moved(str(folder / "temporary"), str(folder / "old"))
    if "folder" in synced:
        disk.synced(str(folder))
    disk.lose(random.Random(seed))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_not_synced_may_be_lost_and_nothing_else(tmp_path):
    numbers = itertools.count()

    def found(*synced):
        return [left_on(tmp_path / f"{seed} {synced} {next(numbers)}", seed, synced=synced) for seed in range(60)]

    assert {b"old", b"", b"content"} <= {left["old"] for left in found()}
    assert {left["old"] for left in found("file")} == {b"old", b"content"}
    assert {left["old"] for left in found("file", "folder")} == {b"content"}
    assert any(left["old"] not in (b"old", b"content") for left in found("folder"))
    assert {len(left) for left in found()} >= {1, 2}
