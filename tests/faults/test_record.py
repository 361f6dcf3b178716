"""Records that are damaged, foreign, finished or no records at all, data that changed, and a disk that is full."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pickle
import random
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import forgetkit
from forgetkit.contracts import EpochEnded
from forgetkit.errors import RecordError, RunDirectoryError
from forgetkit.storage import (
    RunDirectory,
    event_in,
    line_of,
    read_with_digest,
    run_directory,
    write_atomically,
    write_with_digest,
)
from forgetkit.system import safe_open

OPTIONS = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "mega_batches": 2,
    "epochs": 3,
    "threads": 1,
    "checkpoint_epochs": 1,
}


class StopAfter:
    """Interrupts the run after its last but one epoch, when it has two checkpoints."""

    def notify(self, event):
        if isinstance(event, EpochEnded) and (event.mega_batch, event.epoch) == (2, 2):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made(stop, **options)``: the folder and the result of a run, to copy; runs once."""
    known = {}

    def call(stop, **options):
        key = (stop, json.dumps(options, sort_keys=True))
        if key not in known:
            options = {**OPTIONS, **options, "name": "r", "out": tmp_path_factory.mktemp("made")}
            result = None
            with pytest.raises(KeyboardInterrupt) if stop else contextlib.nullcontext():
                result = forgetkit.run(options, observers=[StopAfter()] if stop else [])
            known[key] = (options["out"] / "r", result)
        return known[key]

    return call


@pytest.fixture
def stopped(workdir, made):
    """``stopped(name, **options)``: a copy of an interrupted run."""

    def call(name="r", **options):
        shutil.copytree(made(True, **options)[0], workdir / "runs" / name)
        return workdir / "runs" / name

    return call


@pytest.fixture
def finished(workdir, made):
    """``finished(name, **options)``: a copy of a finished run."""

    def call(name="r", **options):
        shutil.copytree(made(False, **options)[0], workdir / "runs" / name)
        return workdir / "runs" / name

    return call


@pytest.fixture
def whole(finished, made, substance):
    """The substance of the uninterrupted run in ``runs/whole``."""
    finished("whole")
    return substance(made(False)[1])


@pytest.fixture
def refused(cli):
    """Resume, require a refusal that changes no file, and return its line."""

    def call(run, *words):
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} if run.is_dir() else {}
        answer = cli("run", "--resume", run, *words)
        assert (answer.status, answer.out) == (2, ""), answer
        assert answer.err.startswith("forgetkit: ")
        assert answer.err.count("\n") == 1
        assert {path: path.read_bytes() for path in before} == before
        return answer.err

    return call


@contextlib.contextmanager
def edited(file):
    """Change the content of a file and update its digest."""
    content = read_with_digest(file)
    yield content
    write_with_digest(file, content)


def states(run):
    """The checkpoints, newest first."""
    return sorted(run.glob("checkpoints/resume-*.pt"), reverse=True)


def test_two_states_are_kept(stopped):
    assert [file.stem for file in states(stopped())] == ["resume-002-0001", "resume-002-0000"]


# Folders that cannot be resumed


def test_a_folder_that_is_missing(refused, workdir):
    assert "is not a folder" in refused(workdir / "nowhere")


def test_a_file(refused, workdir):
    (workdir / "file").write_text("")
    assert "is not a folder" in refused(workdir / "file")


def test_a_folder_that_is_no_run(refused, workdir):
    (workdir / "folder").mkdir()
    assert "is not the directory of a run" in refused(workdir / "folder")


def test_a_run_that_is_finished_has_nothing_left_to_do(cli, whole, workdir, substance, refused):
    run = workdir / "runs" / "whole"
    answer = cli("run", "--resume", run)
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith(f"{run} is finished: there is nothing left to do\n")
    content = json.loads((run / "result.json").read_text())
    assert cli("run", "--resume", run, "--json").json == content == forgetkit.run(resume=run)
    assert "--epochs 9: this run was begun with 3; a resumed run keeps" in refused(run, "--epochs", 9)


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
    assert "not what its digest says; start a new run" in refused(run)


def test_a_manifest_of_an_older_version(refused, stopped):
    run = stopped()
    (run / "manifest.json").write_text(json.dumps(read_with_digest(run / "manifest.json")))
    assert "of an older forgetkit; start a new run" in refused(run)


def test_a_manifest_that_lacks_an_option(refused, stopped):
    run = stopped()
    with edited(run / "manifest.json") as manifest:
        del manifest["config"]["epochs"]
    for more in ((), ("--epochs", 3)):
        assert "begun by a forgetkit that had no --epochs: start a new run" in refused(run, *more)


@pytest.mark.parametrize(
    "words", [["--epochs", 4], ["--seed", 1], ["--method", "cold"], ["--set", "lr=0.3"], ["--out", "elsewhere"]]
)
def test_an_option_that_the_run_does_not_have(refused, stopped, words):
    assert "a resumed run keeps its configuration" in refused(stopped(), *words)


def test_options_that_the_run_has_anyway(cli, stopped, whole, substance):
    answer = cli("run", "--resume", stopped(), "--epochs", 3, "--method", "lure", "--seed", 0, "--json")
    assert substance(answer.json) == whole


def test_checkpoints_may_come_less_often(cli, stopped, substance, whole):
    run = stopped()
    result = cli("run", "--resume", run, "--checkpoint-epochs", 99, "--json").json
    assert result["config"].pop("checkpoint_epochs") == 99
    whole["config"].pop("checkpoint_epochs")
    assert substance(result) == whole
    written = [event["file"] for event in RunDirectory(run).events() if event["event"] == "checkpointed"]
    assert written[-1] == "resume-002-0001.pt"  # which it was resumed from


def test_a_finished_run_keeps_no_state(cli, finished, whole, substance, workdir):
    """A process that dies after the result is written leaves states: resuming shows the result and removes them."""
    run = finished()
    assert not list(run.glob("checkpoints/resume-*"))
    (run / "checkpoints" / "resume-002-0001.json").write_text("half removed")
    (run / "checkpoints" / "resume-row-001.json").write_text("")
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert not list(run.glob("checkpoints/resume-*"))
    assert RunDirectory(run).models == (1, 2)


def test_a_state_that_cannot_be_removed_ends_no_run(stopped, whole, substance, monkeypatch, caplog):
    run, unlink = stopped(), Path.unlink

    def refuse(self, missing_ok=False):
        if RunDirectory(run).finished and self.name.startswith("resume-"):
            raise OSError(errno.EACCES, "Permission denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert substance(forgetkit.run(resume=run)) == whole
    assert caplog.messages[-1].endswith("Permission denied")


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
    answer = cli("run", "--resume", run, "--json")
    assert answer.status == 0, answer.err
    assert substance(answer.json) == whole
    assert digests(run) == digests(workdir / "runs" / "whole")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"sha256": 3}', '{"sha256": "x", "rows": [], "seconds": 1}', "\udcff"]
)
def test_a_damaged_note_falls_back_to_the_one_before(cli, stopped, text, whole, substance):
    run = stopped()
    states(run)[0].with_suffix(".json").write_text(text, errors="surrogateescape")
    answer = cli("run", "--resume", run, "--json")
    assert substance(answer.json) == whole


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
    point = run.checkpoint()
    rows = [dataclasses.replace(point.rows[0], index=1 + done) for done in range(3)]
    written = []
    monkeypatch.setattr(run_directory, "write_atomically", lambda file, content: written.append(file.name))
    run.save_checkpoint(dataclasses.replace(point, rows=tuple(rows)))
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
    answer = cli("run", "--resume", moved, "--json")
    assert substance(answer.json) == whole
    assert answer.json["directory"] == str(moved)
    assert (moved / "result.json").exists()


def test_other_versions_are_worth_a_warning(cli, stopped, whole, substance, caplog):
    run = stopped()
    with edited(run / "manifest.json") as manifest:
        manifest["versions"]["torch"] = "1.0"
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert caplog.text.count("this run was begun with torch 1.0") == 1


def test_a_rehearsal_has_nothing_to_resume(cli, stopped):
    answer = cli("run", "--resume", stopped(), "--dry-run")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "leave out --resume" in answer.err


# Data that changed


@pytest.fixture
def arrays(workdir):
    """Write an npz file; ``change`` modifies its arrays."""

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


# Never a wrong number: flipped bits, files of other runs, malicious archives


@pytest.mark.slow
def test_another_bit_is_another_bit_in_whatever_file(stopped, finished):
    run, done = RunDirectory(stopped()), RunDirectory(finished("done"))
    draw = random.Random(0)
    readers = [
        (run.path / "manifest.json", lambda: RunDirectory(run.path).manifest),
        (done.path / "result.json", lambda: done.result),
        (done.path / "checkpoints" / "mega-batch-002.json", lambda: plain(done.model(2))),
        (done.path / "checkpoints" / "mega-batch-002.pt", lambda: plain(done.model(2))),
        *((file, lambda: gone_on(run)) for file in (run.path / "events.jsonl", *run.path.glob("checkpoints/resume-*"))),
    ]
    for file, read in readers:
        content, right = file.read_bytes(), read()
        for _ in range(15):
            place, bit = draw.randrange(len(content)), draw.randrange(8)
            file.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            with contextlib.suppress(RunDirectoryError):
                found = read()
                assert found == right or (file.name.startswith("resume-") and found == (right[0] - 1, *right[1:])), file
        file.write_bytes(content)
    assert len(readers) == 10


def plain(tensors):
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def gone_on(run):
    point = RunDirectory(run.path).checkpoint()
    return point.state["epochs_done"], point.state["mega_batch"], point.rows


def test_no_bit_of_an_event_is_another():
    line = line_of({"event": "of_a_plugin", "row": {"test_errors": 7, "name": "ä"}, "loss": 0.1})
    assert event_in(line) == {"event": "of_a_plugin", "row": {"test_errors": 7, "name": "ä"}, "loss": 0.1}
    assert list(json.loads(line))[-1] == "crc32"
    for place in range(8 * (len(line) - 1)):  # the newline at its end is no part of it
        other = bytearray(line)
        other[place // 8] ^= 1 << place % 8
        assert event_in(bytes(other)) is None, other
    for length in range(len(line) - 1):
        assert event_in(line[:length]) is None


@pytest.mark.parametrize("seed", [0, 1])
def test_resume_ignores_states_rows_and_events_of_another_run(cli, stopped, whole, substance, seed, caplog):
    """Of another seed, and of the same one on another day."""
    run, other = stopped("r"), stopped("other", seed=seed)
    with edited(other / "manifest.json") as manifest:
        manifest["run_id"] = "another"
    for file in other.glob("checkpoints/*.json"):
        with edited(file) as content:
            content["run_id"] = "another"
    shutil.copy(other / "checkpoints" / "resume-row-001.json", run / "checkpoints")
    for end in ("pt", "json"):
        shutil.copy(other / "checkpoints" / f"resume-002-0001.{end}", run / "checkpoints")
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    (line,) = caplog.messages
    assert "resume-002-0001.json belongs to another run; the run continues from the state before it" in line


def test_a_state_alone_of_another_run(cli, stopped, whole, substance, caplog):
    run, other = stopped("r"), stopped("other", seed=1)
    shutil.copy(other / "checkpoints" / "resume-002-0001.pt", run / "checkpoints")
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert "resume-002-0001.pt is damaged or another" in caplog.text


def test_events_of_another_run_tell_of_no_row(refused, stopped):
    run, other = stopped("r"), stopped("other", seed=1)
    shutil.copy(other / "events.jsonl", run)
    (run / "checkpoints" / "resume-row-001.json").unlink()
    assert "resume-row-001.json cannot be read: No such file" in refused(run)


def bomb(file):
    """The same archive, its entries folded up, with ten megabytes of nothing."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content + bytes(10**7) * ("/data/0" in name))


def overlapping(file):
    """An archive whose entries are the same bytes over and over."""
    content = file.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack("<HII", content[end + 10 : end + 20])
    names = content[start : start + size]
    fields = struct.pack("<HHHHIIH", 0, 0, 50 * count, 50 * count, 50 * size, start, 0)
    file.write_bytes(content[:start] + 50 * names + b"PK\x05\x06" + fields)


class Deed:
    def __reduce__(self):
        return Path.touch, (Path("done"),)


def code(file):
    torch.save({"mega_batch": 2, "epochs_done": 1, "digest": Deed()}, file)


def code_of_old(file):
    file.write_bytes(pickle.dumps({"digest": Deed()}))


@pytest.mark.parametrize("made_up", [bomb, overlapping, code, code_of_old])
def test_a_state_that_a_stranger_made(cli, stopped, whole, substance, made_up, workdir, caplog):
    """With a note that fits: it is not run, nor unfolded."""
    run = stopped()
    made_up(states(run)[0])
    with edited(states(run)[0].with_suffix(".json")) as note:
        note["state_sha256"] = hashlib.sha256(states(run)[0].read_bytes()).hexdigest()
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert "resume-002-0001.pt is damaged or not one of forgetkit's; the run continues from" in caplog.text
    assert not (workdir / "done").exists()


# A result that is damaged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "stateless"), [(truncated, False), (flipped, False), (emptied, True), (Path.unlink, False)]
)
def test_a_damaged_result_is_made_again(cli, finished, damage, stateless, whole, substance, digests, workdir, caplog):
    run = finished()
    damage(run / "result.json")
    for state in run.glob("checkpoints/resume-*") if stateless else ():
        state.unlink()
    refusal = cli("report", run)
    assert (refusal.status, refusal.err.count("\n"), f"--resume {run}" in refusal.err) == (2, 1, True)
    answer = cli("run", "--resume", run, "--json")
    assert substance(answer.json) == whole
    assert digests(run) == digests(workdir / "runs" / "whole")
    assert json.loads((run / "result.json").read_text()) == answer.json
    assert len(caplog.messages) == (damage is not Path.unlink)
    assert all(f"{run / 'result.json'} is damaged" in line for line in caplog.messages)
    assert cli("run", "--resume", run, "--json").json == answer.json


# Models


def test_resume_warns_about_a_truncated_mega_batch_model(cli, stopped, caplog):
    run = stopped()
    model = run / "checkpoints" / "mega-batch-001.pt"
    model.write_bytes(model.read_bytes()[:-1])
    assert cli("run", "--resume", run).status == 0
    assert [str(model) in line for line in caplog.messages] == [True]


@pytest.mark.parametrize(("keep", "left"), [("last", ["mega-batch-001"]), ("none", [])])
def test_models_that_are_kept_no_more_make_room_at_once(stopped, keep, left):
    """With a full disk, old models are removed at once."""
    run = RunDirectory(stopped())
    assert list(run.remove_stale(keep)) == []
    assert sorted(file.stem for file in run.path.glob("checkpoints/mega-batch-*.pt")) == left


def test_where_a_run_goes_on_is_said(cli, stopped):
    run = stopped()
    assert "\nresuming mega-batch 2 after epoch 1\n" in cli("run", "--resume", run).out
    run = stopped("again")
    shutil.rmtree(run / "checkpoints")
    assert "\nno checkpoint was written: starting from the beginning\n" in cli("run", "--resume", run).out


def test_no_file_is_a_program(stopped):
    assert not any(file.stat().st_mode & 0o111 for file in stopped().rglob("*") if file.is_file())


def test_an_interruption_in_python_names_the_run(workdir):
    with pytest.raises(KeyboardInterrupt) as stopped:
        forgetkit.run({**OPTIONS, "name": "r"}, observers=[StopAfter()])
    assert stopped.value.__notes__ == ["the run in runs/r can be resumed"]


def test_a_model_is_read_as_it_was_kept(finished):
    run = RunDirectory(finished())
    assert run.models == (1, 2)
    for index in run.models:
        kept = torch.load(run.path / "checkpoints" / f"mega-batch-{index:03}.pt", weights_only=True)["model"]
        assert plain(run.model(index)) == plain(kept)


def moved(file):
    shutil.copy(file.with_name("mega-batch-001.pt"), file)
    shutil.copy(file.with_name("mega-batch-001.json"), file.with_suffix(".json"))


def unnoted(file):
    file.with_suffix(".json").unlink()


def of_another(file):
    with edited(file.with_suffix(".json")) as note:
        note["run_id"] = "another"


@pytest.mark.parametrize("damage", [*DAMAGE, moved, unnoted, of_another])
def test_a_model_that_is_damaged(finished, damage):
    run = RunDirectory(finished())
    damage(run.path / "checkpoints" / "mega-batch-002.pt")
    with pytest.raises(RunDirectoryError, match=r"mega-batch-002\.(pt|json) .*(the same run again|--keep-models all)"):
        run.model(2)
    assert run.model(1)


@pytest.mark.parametrize(("keep", "kept"), [("all", (1, 2)), ("last", (2,)), ("none", ())])
def test_models_that_are_kept(cli, stopped, whole, substance, keep, kept):
    """A resumed run may have another value; the result is the same."""
    run = stopped()
    result = cli("run", "--resume", run, "--keep-models", keep, "--json").json
    assert result["config"].pop("keep_models") == keep
    whole["config"].pop("keep_models")
    assert substance(result) == whole
    assert RunDirectory(run).models == kept
    assert len(list(run.glob("checkpoints/mega-batch-*"))) == 2 * len(kept)
    with pytest.raises(RunDirectoryError, match=f"the models of {', '.join(map(str, kept)) or 'none'} are kept"):
        RunDirectory(run).model(3)


# What is no file of ours: links, folders, pipes


def linked(file, elsewhere):
    if file.exists():
        file.rename(elsewhere)
    else:
        elsewhere.write_bytes(b"mine")
    file.symlink_to(elsewhere)


@pytest.mark.parametrize(
    "name",
    [
        *("resume-002-0002.pt", "resume-002-0002.json", "resume-002-0001.pt", "resume-002-0000.json"),
        *("mega-batch-002.pt", "resume-row-001.json", "../result.json", "../run.holder.json"),
    ],
)
def test_nothing_is_written_or_deleted_through_a_link(cli, stopped, whole, substance, workdir, name):
    run = stopped()
    linked(run / "checkpoints" / name, workdir / "elsewhere")
    before = (workdir / "elsewhere").read_bytes()
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert (workdir / "elsewhere").read_bytes() == before
    assert not (workdir / "elsewhere").is_symlink()


@pytest.mark.parametrize("name", ["checkpoints", "events.jsonl", "manifest.json"])
def test_a_link_that_all_would_be_written_through(refused, stopped, workdir, name):
    run = stopped()
    linked(run / name, workdir / "elsewhere")
    before = sorted((workdir / "elsewhere").rglob("*"))
    assert str(run / name) in refused(run)
    assert sorted((workdir / "elsewhere").rglob("*")) == before


def test_a_temporary_file_that_is_a_link_is_not_written_through(tmp_path, monkeypatch):
    file, target = tmp_path / "file", tmp_path / "target"
    target.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda size: "00" * size)
    file.with_name(".file.00000000.tmp").symlink_to(target)
    with pytest.raises(RecordError, match=r"cannot write .*: File exists"):
        write_atomically(file, b"new")
    assert target.read_text() == "mine"


def test_temporary_names_of_equal_process_ids_do_not_collide(tmp_path, monkeypatch):
    """Two containers may share a folder and have equal process ids."""
    names, replace_file = [], Path.replace
    monkeypatch.setattr("os.getpid", lambda: 1)
    monkeypatch.setattr(Path, "replace", lambda self, target: (names.append(self.name), replace_file(self, target))[1])
    for _ in range(2):
        write_atomically(tmp_path / "file", b"content")
    assert len(set(names)) == 2


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize("name", ["manifest.json", "events.jsonl", "checkpoints/resume-002-0001.pt"])
def test_no_file_where_one_belongs(refused, stopped, make, name):
    run = stopped()
    (run / name).unlink()
    make(run / name)
    assert f"{run / name} is no file" in refused(run)


def test_a_file_where_a_folder_belongs(refused, stopped):
    run = stopped()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")
    assert f"{run / 'checkpoints'} is no folder" in refused(run)


def test_resume_removes_states_left_incomplete_by_a_crash(cli, stopped):
    """Checkpoints without a note, and those newer than the resumed one."""
    run = stopped()
    shutil.copy(states(run)[0], run / "checkpoints" / "resume-001-0007-000003.pt")
    shutil.copy(states(run)[0], run / "checkpoints" / "resume-002-0001-000009.pt")
    shutil.copy(states(run)[0].with_suffix(".json"), run / "checkpoints" / "resume-002-0001-000009.json")
    (run / "checkpoints" / "resume-002-0001-000009.pt").write_bytes(b"damaged")
    (run / "checkpoints" / ".resume-002-0001.pt.7.tmp").write_bytes(b"half")
    kept = []

    class Watch:
        def notify(self, event):
            if type(event).__name__ == "Checkpointed":
                kept.append([file.stem for file in states(run)])

    forgetkit.run(resume=run, observers=[Watch()])
    assert kept == [["resume-002-0002", "resume-002-0001"]]
    assert not list(run.rglob("*.tmp"))


# Names, room and power


def test_interrupted_before_the_manifest_is_there(tmp_path, monkeypatch):
    def interrupt(path, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_directory, "write_with_digest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        RunDirectory.create(tmp_path, "r", {})
    assert not list(tmp_path.iterdir())
    (tmp_path / "r").mkdir()  # as a kill leaves it
    with pytest.raises(RunDirectoryError, match=r"r exists already: choose another --name$"):
        RunDirectory.create(tmp_path, "r", {})


@pytest.mark.slow
def test_a_name_that_is_made_is_free(tmp_path, monkeypatch, tiny_words, cli):
    monkeypatch.setattr("forgetkit.engine.run._default_name", lambda plan: "now")
    for _ in range(3):
        assert cli(*tiny_words, "--out", tmp_path / "runs").status == 0
    assert sorted(run.name for run in (tmp_path / "runs").iterdir()) == ["now", "now-2", "now-3"]
    answer = cli(*tiny_words, "--out", tmp_path / "runs", "--name", "now")
    assert (answer.status, answer.err) == (2, f"forgetkit: {tmp_path}/runs/now exists already: choose another --name\n")


@pytest.mark.parametrize("keep", ["all", "none"])
def test_a_rehearsal_knows_what_the_disk_must_hold(cli, workdir, keep):
    words = [word for key, value in OPTIONS.items() for word in (f"--{key.replace('_', '-')}", value)]
    words += ["--model", "mlp:width=64", "--optimizer", "adamw", "--keep-models", keep, "--name", "r"]
    estimated = cli("run", *words, "--dry-run", "--json").json["estimated_disk_bytes"]
    sizes = []

    class Watch:
        def notify(self, event):
            sizes.append(sum(file.stat().st_size for file in (workdir / "runs" / "r").rglob("*")))

    options = {**OPTIONS, "model": "mlp:width=64", "optimizer": "adamw", "keep_models": keep, "name": "r"}
    forgetkit.run(options, observers=[Watch()])
    assert max(sizes) < estimated < 3 * max(sizes)


def test_a_disk_without_the_room_is_said_before_it_begins(tiny, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    assert tiny("--name", "r").status == 0
    (line,) = caplog.messages
    assert re.fullmatch(r".* has room for 0\.0 MiB, the run takes about \d\.\d: make room, or .* last\)", line)


def test_a_name_outlasts_a_loss_of_power(tmp_path, monkeypatch):
    done, rename = [], Path.replace
    monkeypatch.setattr("secrets.token_hex", lambda size: "0123")
    monkeypatch.setattr(Path, "replace", lambda file, target: (done.append("renamed"), rename(file, target)))
    monkeypatch.setattr(os, "fsync", lambda number: done.append(Path(f"/proc/self/fd/{number}").readlink().name))
    write_atomically(tmp_path / "file", b"")
    assert done == [".file.0123.tmp", "renamed", tmp_path.name]


@pytest.mark.parametrize(("number", "status"), [(errno.EINVAL, "skipped"), (errno.EIO, "raised")])
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, number, status):
    def refuse(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RecordError, match="cannot write") if status == "raised" else contextlib.nullcontext():
        write_atomically(tmp_path / "file", b"")


# A disk that is full


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    ["resume-001-0002.pt", "mega-batch-001.pt", "resume-row-001.json", "resume-002-0000.json", "result.json"],
)
def test_full_disk_stops_the_run_and_resume_completes_it(cli, workdir, monkeypatch, whole, substance, digests, file):
    rename = Path.replace

    def replace(self, target):
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(self, target)

    words = [word for key, value in OPTIONS.items() for word in (f"--{key.replace('_', '-')}", value)]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        answer = cli("run", *words, "--name", "r", "--quiet")
    run = workdir / "runs" / "r"
    assert answer.status == 1
    hint, line = answer.err.splitlines()
    assert hint == "to go on: forgetkit run --resume runs/r"
    assert line.startswith("forgetkit: cannot write ")
    assert line.endswith(f"{file}: No space left on device")
    assert not list(run.rglob("*.tmp"))
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert digests(run) == digests(workdir / "runs" / "whole")


def test_a_full_disk_under_the_events(cli, workdir, monkeypatch, tiny_words):
    append = run_directory.RunDirectory.append

    def full(self, event):
        if event["event"] == "unlearned":
            with monkeypatch.context() as patch:
                patch.setattr(safe_open, "file_opener", refuse)
                append(self, event)
        append(self, event)

    def refuse(path, flags):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_directory.RunDirectory, "append", full)
    answer = cli(*tiny_words, "--name", "r", "--quiet")
    assert answer.status == 1
    assert answer.err.splitlines()[-1] == "forgetkit: cannot write runs/r/events.jsonl: No space left on device"


# Nonsense under valid digests


ROW = dict.fromkeys(("index", "train_samples", "epochs", "samples_seen", "forward_passes", "backward_passes"), 1) | {
    **dict.fromkeys(("train_accuracy", "test_accuracy", "seconds"), 0.5),
    "val_samples": 1,
    "val_accuracy": None,
    "generalization_gap": -0.1,
    "test_errors": 5,
    "test_samples": 10,
}


@pytest.mark.parametrize(
    "forged",
    [
        *({"test_errors": -5}, {"test_errors": 999}, {"samples_seen": -1}, {"seconds": -0.1}, {"test_accuracy": 1.5}),
        *({"index": 2}, {"epochs": "many"}, {"train_accuracy": None}, {"unlearn": {"reset": -1}}, {"unknown": 1}),
        *({"train_samples": True, "val_samples": []}, {"interventions": {"redo": -3}}),
    ],
    ids=str,
)
def test_rows_that_no_run_has(whole, workdir, cli, forged):
    """In a result, and in the event."""
    run = workdir / "runs" / "whole"
    content = read_with_digest(run / "result.json")
    content["mega_batches"][0] |= forged
    write_with_digest(run / "result.json", content)
    answer = cli("report", run)
    assert (answer.status, answer.err.count("\n")) == (2, 1), answer.err
    assert f"{run / 'result.json'} is damaged" in answer.err
    if "index" not in forged:
        assert event_in(line_of({"event": "mega_batch_ended", "row": {**ROW, **forged}})) is None


def test_the_row_that_the_test_above_forges_is_sound():
    assert event_in(line_of({"event": "mega_batch_ended", "row": ROW}))["row"] == ROW


@pytest.mark.parametrize(
    "event",
    [
        *({"event": "mega_batch_ended"}, {"event": "mega_batch_ended", "row": 7}, {"event": "epoch_ended", "epoch": 1}),
        {"event": "run_started", "samples": "many"},
        {"event": "checkpointed", "mega_batch": -1, "epoch": 0, "file": ""},
    ],
    ids=str,
)
def test_events_that_lack_what_their_kind_has(event):
    assert event_in(line_of(event)) is None


@pytest.mark.parametrize("text", ["[" * 20000 + "]" * 20000, "NaN", "-Infinity", "1e999", "[1]", "9" * 5000])
def test_json_that_is_none_of_ours(tmp_path, text):
    file = tmp_path / "file.json"
    file.write_text(text if text == "[1]" else '{"value": ' + text + ', "sha256": "0"}')
    with pytest.raises(RunDirectoryError, match=r"file.json is damaged"):
        read_with_digest(file)


@pytest.mark.parametrize("name", ["manifest.json", "result.json"])
@pytest.mark.parametrize("schema", [0, 1, 3, "2", None, True])
def test_another_schema_is_named(whole, workdir, cli, name, schema):
    run = workdir / "runs" / "whole"
    write_with_digest(run / name, {**read_with_digest(run / name), "schema": schema})
    (run / "result.json").unlink() if name == "manifest.json" else None
    answer = cli("run", "--resume", run) if name == "manifest.json" else cli("analyze", run, "calibration")
    assert (answer.status, answer.err.count("\n")) == (2, 1), answer.err
    assert f"{run / name} has schema {schema!r}, and this version of forgetkit reads 2" in answer.err


@pytest.mark.parametrize(
    "note", [{"rows": 0}, {"rows": 7}, {"rows": -1}, {"rows": True}, {"seconds": -1}, {"seconds": "x"}]
)
def test_a_note_that_contradicts_its_state(cli, stopped, whole, substance, caplog, note):
    """The run resumes from the checkpoint before it and names the note."""
    run = stopped()
    file = states(run)[0].with_suffix(".json")
    write_with_digest(file, {**read_with_digest(file), **note})
    assert substance(cli("run", "--resume", run, "--json").json) == whole
    assert f"{file} is damaged" in caplog.text
