"""What a kill leaves in the cache goes by its age; what a process still works on stays."""

from __future__ import annotations

import os
import time

import pytest

from forgetkit.builtin.datasets._staging import staging


def aged(folder, hours):
    folder.mkdir(parents=True)
    file = folder / "train.npy"
    file.write_bytes(b"half")
    for path in (file, folder):
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    return file


def test_an_abandoned_folder_is_swept(tmp_path):
    aged(tmp_path / ".decoding-old", 25)
    aged(tmp_path / ".decoding-new", 1)
    working = aged(tmp_path / ".decoding-long", 25)
    os.utime(working)  # begun long ago, and written to just now
    aged(tmp_path / "others", 99)
    (tmp_path / ".decoding-link").symlink_to(tmp_path / "others", target_is_directory=True)
    with staging(tmp_path, ".decoding-") as place:
        assert place.parent == tmp_path
        (place / "fresh").mkdir()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".decoding-link", ".decoding-long", ".decoding-new", "others"]
    assert (tmp_path / "others" / "train.npy").exists()


def test_a_failure_leaves_nothing(tmp_path):
    def interrupted():
        with staging(tmp_path, ".decoding-") as place:
            (place / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
