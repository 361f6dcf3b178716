"""Records that are damaged, foreign, finished or no records at all, data that changed, and a disk that is full."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import forgetkit
from forgetkit import regular
from forgetkit.contracts import EpochEnded
from forgetkit.record import RunDirectory, directory, read_sealed, write_sealed

OPTIONS = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "mega_batches": 2,
    "epochs": 3,
    "threads": 1,
    "checkpoint_epochs": 1,
}


class StopAfter:
    """Interrupts the run when its last epoch but one has ended: two states lie there by then."""

    def notify(self, event):
        if isinstance(event, EpochEnded) and (event.mega_batch, event.epoch) == (2, 2):
            raise KeyboardInterrupt


@pytest.fixture
def stopped(workdir):
    """``stopped(name, **options)``: the folder of an interrupted run."""

    def call(name="r", **options):
        with pytest.raises(KeyboardInterrupt):
            forgetkit.run({**OPTIONS, **options, "name": name}, observers=[StopAfter()])
        return workdir / "runs" / name

    return call


@pytest.fixture
def whole(workdir, substance):
    """The substance of the run that is never interrupted."""
    return substance(forgetkit.run({**OPTIONS, "name": "whole"}))


@pytest.fixture
def refused(cli):
    """Resume, and check what all refusals have in common; return the line."""

    def call(run, *words):
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} if run.is_dir() else {}
        said = cli("run", "--resume", run, *words)
        assert (said.status, said.out) == (2, ""), said
        assert said.err.startswith("forgetkit: ")
        assert said.err.count("\n") == 1
        assert {path: path.read_bytes() for path in before} == before
        return said.err

    return call


@contextlib.contextmanager
def edited(file):
    """The content of a file, sealed again after it was changed."""
    content = read_sealed(file)
    yield content
    write_sealed(file, content)


def states(run):
    """The states to resume from, newest first."""
    return sorted(run.glob("checkpoints/resume-*.pt"), reverse=True)


def test_two_states_are_kept(stopped):
    assert [file.stem for file in states(stopped())] == ["resume-002-0001", "resume-002-0000"]


# What is no run that could go on


def test_a_folder_that_is_missing(refused, workdir):
    assert "is not a folder" in refused(workdir / "nowhere")


def test_a_file(refused, workdir):
    (workdir / "file").write_text("")
    assert "is not a folder" in refused(workdir / "file")


def test_a_folder_that_is_no_run(refused, workdir):
    (workdir / "folder").mkdir()
    assert "is not the directory of a run" in refused(workdir / "folder")


def test_a_run_that_is_finished(refused, whole, workdir):
    assert "nothing to resume" in refused(workdir / "runs" / "whole")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '{"config": 3}', "{}"])
def test_a_manifest_that_is_damaged(refused, stopped, text):
    run = stopped()
    (run / "manifest.json").write_text(text)
    assert "damaged" in refused(run)


@pytest.mark.parametrize(("key", "value"), [("epochs", 4), ("seed", 1), ("reinit", "cold"), ("nosuch", 1), ("lr", "x")])
def test_a_manifest_that_was_edited(refused, stopped, key, value):
    run = stopped()
    whole = json.loads((run / "manifest.json").read_text())
    with edited(run / "manifest.json") as manifest:
        manifest["config"][key] = value
    assert refused(run)
    whole["config"][key] = value
    (run / "manifest.json").write_text(json.dumps(whole))
    assert "not what its digest says; begin the run anew" in refused(run)


def test_a_manifest_of_an_older_version(refused, stopped):
    run = stopped()
    (run / "manifest.json").write_text(json.dumps(read_sealed(run / "manifest.json")))
    assert "of an older forgetkit; begin the run anew" in refused(run)


def test_a_manifest_that_lacks_an_option(refused, stopped):
    run = stopped()
    with edited(run / "manifest.json") as manifest:
        del manifest["config"]["epochs"]
    for more in ((), ("--epochs", 3)):
        assert "begun by a forgetkit that had no --epochs: begin it anew" in refused(run, *more)


@pytest.mark.parametrize(
    "words", [["--epochs", 4], ["--seed", 1], ["--method", "cold"], ["--set", "lr=0.3"], ["--out", "elsewhere"]]
)
def test_an_option_that_the_run_does_not_have(refused, stopped, words):
    assert "a resumed run keeps its configuration" in refused(stopped(), *words)


def test_options_that_the_run_has_anyway(cli, stopped, whole, substance):
    said = cli("run", "--resume", stopped(), "--epochs", 3, "--method", "lure", "--seed", 0, "--json")
    assert substance(said.json) == whole


def test_checkpoints_may_come_less_often(cli, stopped, substance, whole):
    run = stopped()
    result = cli("run", "--resume", run, "--checkpoint-epochs", 99, "--json").json
    assert result["config"].pop("checkpoint_epochs") == 99
    whole["config"].pop("checkpoint_epochs")
    assert substance(result) == whole
    assert [file.stem for file in states(run)] == ["resume-002-0001", "resume-002-0000"]


def test_a_state_of_another_run(refused, stopped):
    run, other = stopped("r"), stopped("other", seed=1)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    assert "resume-002-0000.json belongs to another run" in refused(run)


# Damaged states


def truncated(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def emptied(file):
    file.write_bytes(b"")


DAMAGE = [truncated, flipped, emptied, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_falls_back_to_the_one_before(cli, stopped, damage, whole, substance, digests, workdir):
    run = stopped()
    damage(states(run)[0])
    said = cli("run", "--resume", run, "--json")
    assert said.status == 0, said.err
    assert substance(said.json) == whole
    assert digests(run) == digests(workdir / "runs" / "whole")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"sha256": 3}', '{"sha256": "x", "rows": [], "seconds": 1}', "\udcff"]
)
def test_a_damaged_note_falls_back_to_the_one_before(cli, stopped, text, whole, substance):
    run = stopped()
    states(run)[0].with_suffix(".json").write_text(text, errors="surrogateescape")
    said = cli("run", "--resume", run, "--json")
    assert substance(said.json) == whole


@pytest.mark.parametrize("rows", ["x", [3], [{"index": 1}], [{"nosuch": 1}]])
def test_damaged_rows_fall_back_too(cli, stopped, rows, whole, substance):
    run = stopped()
    note = states(run)[0].with_suffix(".json")
    with edited(note) as content:
        content["rows"] = rows
    assert substance(cli("run", "--resume", run, "--json").json) == whole


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_is_read_from_the_events(cli, stopped, damage, whole, substance):
    run = stopped()
    (row,) = run.glob("checkpoints/resume-row-*.json")
    damage(row)
    assert substance(cli("run", "--resume", run, "--json").json) == whole


def test_rows_are_written_in_their_order(stopped, monkeypatch):
    run = RunDirectory(stopped())
    point = run.resume_point()
    rows = [dataclasses.replace(point.rows[0], index=1 + done) for done in range(3)]
    written = []
    monkeypatch.setattr(directory, "write_atomically", lambda file, content: written.append(file.name))
    run.save_resume_point(dataclasses.replace(point, rows=tuple(rows)))
    assert written == ["resume-row-002.json", "resume-row-003.json"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_both_states_damaged(refused, stopped, damage):
    run = stopped()
    for file in states(run):
        damage(file)
    line = refused(run)
    assert str(run / "checkpoints" / "resume-002-0000.pt") in line


def test_no_state_at_all_begins_anew(cli, stopped, whole, substance, digests, workdir):
    run = stopped()
    for file in run.glob("checkpoints/*"):
        file.unlink()
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert digests(run) == digests(workdir / "runs" / "whole")


def test_strange_files_among_the_states(cli, stopped, whole, substance):
    run = stopped()
    for name in ("resume-x-y.json", "resume-009.json", "resume-009-0001.json.tmp", ".resume-009-0001.pt.7.tmp"):
        (run / "checkpoints" / name).write_text("")
    assert substance(cli("run", "--resume", run, "--json").json) == whole


def test_the_run_was_moved(cli, stopped, whole, substance, workdir, monkeypatch):
    run = stopped()
    (workdir / "elsewhere").mkdir()
    moved = run.rename(workdir / "elsewhere" / "mine")
    monkeypatch.chdir("/")
    said = cli("run", "--resume", moved, "--json")
    assert substance(said.json) == whole
    assert said.json["directory"] == str(moved)
    assert (moved / "result.json").exists()


def test_other_versions_are_worth_a_warning(cli, stopped, whole, substance, caplog):
    run = stopped()
    with edited(run / "manifest.json") as manifest:
        manifest["versions"]["torch"] = "1.0"
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert caplog.text.count("this run was begun with torch 1.0") == 1


def test_a_rehearsal_has_nothing_to_resume(cli, stopped):
    said = cli("run", "--resume", stopped(), "--dry-run")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "leave out --resume" in said.err


# Data that changed


@pytest.fixture
def arrays(workdir):
    """Write an npz file; ``change`` says what of it is otherwise."""

    def write(change=None):
        rng = np.random.default_rng(0)
        content = {
            "x_train": rng.random((60, 4, 4), dtype=np.float32),
            "y_train": np.arange(60) % 3,
            "x_test": rng.random((9, 4, 4), dtype=np.float32),
            "y_test": np.arange(9) % 3,
        }
        if change is not None:
            change(content)
        np.savez(workdir / "data.npz", **content)
        return f"npz:{workdir / 'data.npz'}"

    return write


def other_labels(content):
    content["y_train"] = content["y_train"][::-1].copy()


def other_test_labels(content):
    content["y_test"][0] = 1


def other_pixels(content):
    content["x_train"][7, 0, 0] += 0.5


def fewer_samples(content):
    content["x_train"], content["y_train"] = content["x_train"][:-3], content["y_train"][:-3]


def other_shape(content):
    content["x_train"], content["x_test"] = content["x_train"][:, :2], content["x_test"][:, :2]


@pytest.mark.parametrize("change", [other_labels, other_test_labels, other_pixels, fewer_samples, other_shape])
def test_data_that_changed_since(refused, stopped, arrays, change):
    run = stopped(dataset=arrays())
    arrays(change)
    assert "is not what the run began with" in refused(run)


def test_data_that_is_gone(refused, stopped, arrays, workdir):
    run = stopped(dataset=arrays())
    (workdir / "data.npz").unlink()
    assert "cannot be opened" in refused(run)


def test_data_that_came_back(cli, stopped, arrays, substance):
    run = stopped(dataset=arrays())
    arrays(other_labels)
    assert cli("run", "--resume", run).status == 2
    arrays()
    assert cli("run", "--resume", run).status == 0


# A disk that is full


@pytest.mark.parametrize(
    "file",
    ["resume-001-0002.pt", "mega-batch-001.pt", "resume-row-001.json", "resume-002-0000.json", "result.json"],
)
def test_a_full_disk_stops_the_run_and_an_emptied_one_lets_it_go_on(
    cli, workdir, monkeypatch, whole, substance, digests, file
):
    rename = Path.replace

    def replace(self, target):
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(self, target)

    words = [word for key, value in OPTIONS.items() for word in (f"--{key.replace('_', '-')}", value)]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        said = cli("run", *words, "--name", "r", "--quiet")
    run = workdir / "runs" / "r"
    assert said.status == 1
    hint, line = said.err.splitlines()
    assert hint == "to go on: forgetkit run --resume runs/r"
    assert line.startswith("forgetkit: cannot write ")
    assert line.endswith(f"{file}: No space left on device")
    assert not list(run.rglob("*.tmp"))
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert digests(run) == digests(workdir / "runs" / "whole")


def test_a_full_disk_under_the_events(cli, workdir, monkeypatch, tiny_words):
    append = directory.RunDirectory.append

    def full(self, event):
        if event["event"] == "unlearned":
            with monkeypatch.context() as patch:
                patch.setattr(regular, "opener", refuse)
                append(self, event)
        append(self, event)

    def refuse(path, flags):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory.RunDirectory, "append", full)
    said = cli(*tiny_words, "--name", "r", "--quiet")
    assert said.status == 1
    assert said.err.splitlines()[-1] == "forgetkit: cannot write runs/r/events.jsonl: No space left on device"
