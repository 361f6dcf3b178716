"""Names that point outside their folder, in archives, manifests, grids and on the command line, have no effect."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shlex
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.cifar_files import Response, file_names, publish

import forgetkit
from forgetkit.builtin.datasets.cifar10 import Cifar10
from forgetkit.contracts import Checkpointed, LoadContext
from forgetkit.errors import DataError, RunDirectoryError
from forgetkit.storage import RunDirectory, read_with_digest, write_with_digest

TINY = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "mega_batches": 2,
    "epochs": 1,
    "threads": 1,
}
ELSEWHERE = ["../x", "../../x", "/tmp/x", "a/b", "..", ".", "", "a\0b", "a\\b", "x" * 300, "\ud800"]


def below(folder: Path) -> set[str]:
    """All paths below a folder; links are not followed."""
    return {str(path) for path in folder.rglob("*")}


# Archives


def tar_of(members: dict[str, bytes | tuple[bytes, str]]) -> bytes:
    """A compressed archive; a pair is a kind of link and its target."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """``fetched(changed)``: CIFAR-10 from an archive that was published so, with members changed or more of them."""
    small = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "label_names": ["a", "b"]}
    files = dict.fromkeys(file_names(), pickle.dumps(small, protocol=2))

    def load(changed: dict[str, bytes | tuple[bytes, str] | None]) -> Path:
        members = {f"cifar-10-batches-py/{name}": content for name, content in files.items()} | changed
        content = tar_of({name: what for name, what in members.items() if what is not None})
        publish(monkeypatch, files, content)
        monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response(content))
        root = tmp_path / "in" / "data"
        Cifar10(root, download=True).load(LoadContext(tmp_path / "cache", lambda *_: None))
        return root

    return load


def test_members_that_lead_elsewhere_become_no_file(tmp_path, fetched):
    outside = {"../x": b"1", "../../x": b"1", "/tmp/forgetkit-was-here": b"1", "cifar-10-batches-py/../../x": b"1"}
    links = {"cifar-10-batches-py/more": (tarfile.SYMTYPE, "/"), "cifar-10-batches-py/more/x": b"1"}
    root = fetched({**outside, **links})
    expected = {root.parent, root, root / "cifar-10-batches-py"}
    expected |= {root / "cifar-10-batches-py" / name for name in file_names()}
    assert below(tmp_path) == set(map(str, expected))
    assert not Path("/tmp/forgetkit-was-here").exists()


@pytest.mark.parametrize(
    "member",
    [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../secret"), (tarfile.FIFOTYPE, ""), None, b"other"],
)
def test_a_member_that_is_no_file_of_its_own_is_refused(tmp_path, fetched, member):
    with pytest.raises(DataError) as caught:
        fetched({"cifar-10-batches-py/test_batch": member})
    assert "CIFAR10 could not be downloaded" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "in" / "data" / "cifar-10-batches-py" / "test_batch").exists()


def test_extraction_replaces_a_symlink_without_following_it(tmp_path, fetched):
    target = tmp_path / "mine"
    target.write_text("keep")
    folder = tmp_path / "in" / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "test_batch").symlink_to(target)
    fetched({})
    assert target.read_text() == "keep"
    assert not (folder / "test_batch").is_symlink()


# The command line


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_is_one_folders(cli, tiny_words, workdir, name):
    (workdir / "in").mkdir()
    os.chdir(workdir / "in")
    answer = cli(*tiny_words, "--name", name, "--quiet")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    grid = cli("ablate", "--over", "reinit=cold,rifle", *tiny_words[1:], "--name", name, "--dry-run")
    assert (grid.status, grid.err.count("\n")) == (2, 1)
    asked = cli("table", ".", "--grid", name)
    assert (asked.status, asked.err.count("\n")) == (2, 1)
    assert below(workdir) == {str(workdir / "in")}


@pytest.mark.parametrize("out", ["a\0b", "x" * 300, "/dev/null/x", "/proc/x"])
def test_an_out_that_no_folder_can_be_is_one_line(cli, tiny_words, workdir, out):
    for words in ([*tiny_words, "--quiet"], ["ablate", "--over", "reinit=cold,rifle", *tiny_words[1:], "--quiet"]):
        answer = cli(*words, "--out", out)
        assert (answer.status, answer.err.count("\n")) == (2, 1), answer.err
    assert below(workdir) == set()


# Manifests


class Stop:
    def notify(self, event):
        if isinstance(event, Checkpointed):
            raise KeyboardInterrupt


@pytest.fixture
def got(workdir):
    """``got(**options)``: an unfinished run from elsewhere, with a changed manifest and a valid digest."""
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**TINY, "out": str(workdir / "got"), "name": "theirs"}, observers=[Stop()])
    path = workdir / "got" / "theirs"

    def changed(**options) -> Path:
        manifest = read_with_digest(path / "manifest.json")
        write_with_digest(path / "manifest.json", {**manifest, "config": {**manifest["config"], **options}})
        return path

    return changed


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if name != "\ud800"])
def test_the_name_in_a_manifest_is_where_nothing_is_written(cli, workdir, got, name):
    path = got(name=name, out=str(workdir / "elsewhere"))
    before = below(workdir) - below(path)
    answer = cli("run", "--resume", path, "--quiet")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert below(workdir) - below(path) <= before


@pytest.mark.parametrize("out", ["../../x", "/proc/x", "x" * 300])
def test_the_folder_in_a_manifest_is_where_nothing_is_written(cli, workdir, got, out):
    path = got(out=out)
    before = below(workdir) - below(path)
    assert cli("run", "--resume", path, "--quiet").status == 0
    assert below(workdir) - below(path) == before
    assert (path / "result.json").exists()


# Notes of grids


def note(folder: Path, digests: list[str], name: str = "g", **changed) -> Path:
    cells = [{"arm": {"reinit": "cold"}, "seed": seed, "digest": one} for seed, one in enumerate(digests)]
    content = {
        "schema": 2,
        "title": "g",
        "axes": ["reinit"],
        "cells": cells,
        "baseline": None,
        "command": "",
        **changed,
    }
    (folder / "grids").mkdir(parents=True, exist_ok=True)
    return Path(write_with_digest(folder / "grids" / f"{name}.json", content) and folder / "grids" / f"{name}.json")


def secret(folder: Path) -> None:
    """Write a result outside the ablation's folder, sealed like a cell's."""
    folder.mkdir(parents=True)
    content = json.dumps({"test_accuracy": 0.123456, "mega_batches": []}).encode()
    (folder / "result.json").write_bytes(content)
    for digest in ("../../secret", "/" * 64):
        write_with_digest(
            folder / "seal.json", {"digest": digest, "result_sha256": hashlib.sha256(content).hexdigest()}
        )


@pytest.mark.parametrize(
    "digest", ["../../secret", "/etc", "", "a" * 63, "A" * 64, "a\0" * 32, "../" * 21 + "a", 7, None]
)
@pytest.mark.parametrize("twice", [False, True])
def test_a_note_names_cells_by_digests_alone(cli, workdir, digest, twice):
    """Twice: two cells of one arm and seed, the later of which is as it should be."""
    secret(workdir / "secret")
    path = note(workdir / "abl", [digest])
    if twice:
        content = read_with_digest(path)
        write_with_digest(path, {**content, "cells": [*content["cells"], {**content["cells"][0], "digest": "ab" * 32}]})
    for command in ("table", "report"):
        answer = cli(command, "abl")
        assert (answer.status, answer.err.count("\n")) == (2, 1)
        assert "g.json is damaged" in answer.err
        assert "12.35" not in answer.out


def test_a_command_in_a_message_can_be_pasted_into_a_shell(tmp_path):
    run = RunDirectory.create(tmp_path, "it's a run; rm -rf *", {})
    (run.path / "result.json").write_text("{}")
    with pytest.raises(RunDirectoryError) as caught:
        _ = run.result
    command = str(caught.value).partition("; forgetkit ")[2].removesuffix(" makes it again")
    assert shlex.split(command) == ["run", "--resume", str(run.path)]


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_pipe_among_the_files_of_cifar_is_not_waited_for(tmp_path, name):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    os.mkfifo(folder / name)
    signal.alarm(20)  # the reader would wait for ever
    try:
        with pytest.raises(DataError, match="missing or damaged"):
            Cifar10(path=tmp_path).load(LoadContext(tmp_path, lambda *_: None))
    finally:
        signal.alarm(0)


def test_a_record_downloads_nothing(cli, workdir, monkeypatch):
    """A manifest whose data set would be fetched into a folder of its choosing, resumed and looked at."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it went to the network"))
    words = ["--" + key.replace("_", "-") + f"={value}" for key, value in TINY.items()]
    assert cli("run", *words, "--name", "r", "--out", "runs").status == 0
    run = Path("runs/r").absolute()
    for name in ("manifest.json", "result.json"):
        content = read_with_digest(run / name)
        content["config"]["dataset"] = f"cifar10:path={workdir / 'theirs'},download=true"
        write_with_digest(run / name, content)
    for also in (["analyze", run, "calibration"], ["run", "--resume", run]):
        if also[0] == "run":
            (run / "result.json").unlink()
        answer = cli(*also)
        assert answer.status != 0
        assert "a record downloads nothing, so name the data set again with --dataset" in answer.err, answer.err
    assert not (workdir / "theirs").exists()
