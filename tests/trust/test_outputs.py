"""What a user names for output is written if it is a file or nothing: pipes, devices and links stay what they are."""

from __future__ import annotations

import os
import stat

import pytest

import forgetkit
from forgetkit.errors import RecordError, UsageError
from forgetkit.registry import scaffold
from forgetkit.storage import write_output

OPTIONS = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "model": "mlp:width=8",
    "mega_batches": 2,
    "epochs": 1,
    "threads": 1,
}
KINDS = ["pipe", "device", "link", "dangling link"]


def place(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except OSError as error:
            pytest.skip(f"no device can be made here: {error.strerror}")
    else:
        target = path.with_name("target")
        if kind == "link":
            target.write_text("theirs")
        path.symlink_to(target)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    forgetkit.run({**OPTIONS, "name": "r", "out": folder})
    return folder / "r"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["--out", "--export-masks", "--pictures"])
def test_what_is_no_file_stays(cli, run, tmp_path, kind, option):
    names = {"--out": "page.html", "--export-masks": "masks.npz", "--pictures": "mega-batches.svg"}
    if option == "--pictures":
        pytest.importorskip("matplotlib")
        assert cli("report", run, "--out", tmp_path / "r.html", "--pictures", tmp_path / "before").status == 0
        names["--pictures"] = sorted(file.name for file in (tmp_path / "before").iterdir())[0]
    path = tmp_path / names[option]
    place(path, kind)
    before = path.lstat()
    words = {
        "--out": ["report", run, "--out", path],
        "--export-masks": ["analyze", run, "--export-masks", path],
        "--pictures": ["report", run, "--out", tmp_path / "r.html", "--pictures", tmp_path],
    }[option]
    answer = cli(*words)
    assert (answer.status, answer.err.count("\n")) == (2, 1), answer.err
    assert f"{path} is a link, a pipe or a device" in answer.err
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    if kind == "link":
        assert path.read_text() == "theirs"


def test_a_file_is_replaced_and_a_new_one_made(tmp_path):
    for content in (b"one", b"two"):
        write_output(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    with pytest.raises(RecordError, match="Is a directory"):
        write_output(tmp_path, b"content")


@pytest.mark.parametrize("failing", range(1, 6))
def test_a_new_plugin_is_there_whole_or_not_at_all(tmp_path, monkeypatch, failing):
    filled, calls = scaffold._fill_template, []

    def fail(*arguments):
        calls.append(1)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return filled(*arguments)

    monkeypatch.setattr(scaffold, "_fill_template", fail)
    with pytest.raises(UsageError, match=r"forgetkit-mine cannot be written: No space left on device"):
        scaffold.write_package("forgetkit-mine", "importance", tmp_path, ())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "forgetkit-mine").mkdir()  # an empty folder is not in the way
    written = scaffold.write_package("forgetkit-mine", "importance", tmp_path, ())
    assert all((written.directory / file).is_file() for file in written.files)
    assert stat.S_IMODE(written.directory.stat().st_mode) == stat.S_IMODE(
        written.directory.joinpath("src").stat().st_mode
    )
