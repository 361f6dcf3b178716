"""A link in place of one of forgetkit's folders: nothing is written, removed or read through it."""

from __future__ import annotations

import shutil

import pytest

import forgetkit
from forgetkit.analysis import answers
from forgetkit.contracts import EpochEnded
from forgetkit.errors import RunDirectoryError
from forgetkit.results.cell_store import CellStore, GridManifest
from forgetkit.storage import RunDirectory

OPTIONS = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "mega_batches": 2,
    "epochs": 2,
    "threads": 1,
    "checkpoint_epochs": 1,
}


@pytest.fixture
def elsewhere(tmp_path):
    """Somebody's folder with files whose names forgetkit would overwrite or sweep."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("mega-batch-001.pt", "resume-001-0001.pt", "calibration.json", "NAME.json", ".a.7.tmp"):
        (folder / name).write_text("theirs")
    return folder


@pytest.fixture
def untouched(elsewhere):
    """Asserts that nothing in that folder changed."""
    before = {file: (file.read_bytes(), file.lstat().st_mtime_ns) for file in elsewhere.iterdir()}

    def check():
        assert {file: (file.read_bytes(), file.lstat().st_mtime_ns) for file in elsewhere.iterdir()} == before

    return check


def link(path, elsewhere):
    if path.exists():
        shutil.rmtree(path)
    path.symlink_to(elsewhere, target_is_directory=True)


def test_checkpoints_that_become_a_link_in_the_midst_of_a_run(tmp_path, elsewhere, untouched):
    class Swap:
        def notify(self, event):
            if isinstance(event, EpochEnded) and event.mega_batch == 1:
                link(tmp_path / "r" / "checkpoints", elsewhere)

    with pytest.raises(RunDirectoryError, match="r/checkpoints is a link"):
        forgetkit.run({**OPTIONS, "name": "r", "out": tmp_path}, observers=[Swap()])
    untouched()


def test_checkpoints_of_a_run_that_is_resumed(tmp_path, cli, elsewhere, untouched):
    forgetkit.run({**OPTIONS, "name": "r", "out": tmp_path})
    run = tmp_path / "r"
    (run / "result.json").unlink()
    link(run / "checkpoints", elsewhere)
    answer = cli("run", "--resume", run)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert f"{run / 'checkpoints'} is a link" in answer.err
    untouched()


def test_analyses(tmp_path, cli, elsewhere, untouched):
    forgetkit.run({**OPTIONS, "name": "r", "out": tmp_path})
    link(tmp_path / "r" / "analyses", elsewhere)
    answer = cli("analyze", tmp_path / "r", "calibration")
    assert answer.status != 0
    assert f"{tmp_path / 'r' / 'analyses'} is a link" in answer.err
    assert "Traceback" not in answer.err
    untouched()
    (error,) = answers.stored_answers(tmp_path / "r")
    assert "is a link" in str(error)


@pytest.mark.parametrize("name", ["cells", "grids"])
def test_the_folders_of_an_ablation(tmp_path, cli, elsewhere, untouched, name):
    link(tmp_path / name, elsewhere)
    words = ["--" + key.replace("_", "-") + f"={value}" for key, value in OPTIONS.items() if key != "checkpoint_epochs"]
    answer = cli("ablate", "--over", "method=warm", "--seeds", "0", "--out", tmp_path, "--jobs", "1", *words)
    assert answer.status == 2
    assert f"{tmp_path / name} is a link" in answer.err
    pool = CellStore(tmp_path)
    changes = {
        "cells": [lambda: pool.fail("0" * 64, "failed", "reason"), lambda: pool.lock("0" * 64), pool.sweep],
        "grids": [lambda: pool.write_manifest("NAME", GridManifest("t", ("method",), ())), pool.sweep],
    }
    for change in changes[name]:
        with pytest.raises(RunDirectoryError, match=f"{name} is a link"):
            change()
    untouched()


def test_what_analyses_answered_about_a_grid(tmp_path, elsewhere, untouched):
    (tmp_path / "grids").mkdir()
    link(tmp_path / "grids" / "NAME.answers", elsewhere)
    with pytest.raises(RunDirectoryError, match=r"NAME.answers is a link"):
        CellStore(tmp_path).answers_folder("NAME")
    untouched()


def test_a_link_to_the_folder_of_a_run_itself_is_the_users(tmp_path, cli):
    """Only folders that forgetkit makes must not be links; the path to a run may have links."""
    first = forgetkit.run({**OPTIONS, "name": "r", "out": tmp_path / "disk"})
    (tmp_path / "runs").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert cli("run", "--resume", tmp_path / "runs" / "r", "--json").json["cer"] == first["cer"]
    assert RunDirectory(tmp_path / "runs" / "r").models == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [".#default.json", "._default.json"])
def test_files_of_editors_beside_the_grids(tmp_path, cli, name):
    """Emacs locks are dangling links; macOS writes attribute files."""
    words = ["--" + key.replace("_", "-") + f"={value}" for key, value in OPTIONS.items() if key != "checkpoint_epochs"]
    assert cli("ablate", "--over", "method=warm", "--seeds", "0", "--out", tmp_path, *words).status == 0
    before = cli("table", tmp_path).out
    path = tmp_path / "grids" / name
    path.symlink_to("user@host.1234:5678") if "#" in name else path.write_bytes(b"\0\5\26\7")
    answer = cli("table", tmp_path)
    assert (answer.status, answer.out) == (0, before), answer.err
