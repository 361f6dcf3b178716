"""Files that killed processes left behind, recognised by their age: the process may have run on another machine."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

_AGE = 24 * 3600
"""Seconds without a change after which the process that made a file or folder is taken for dead."""


def remove_stale_files(paths: Iterable[Path]) -> None:
    """Remove the files and folders in which nothing has changed for a day; links stay."""
    for path in paths:
        with contextlib.suppress(OSError):  # another process removes it too
            newest = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
            if time.time() - newest > _AGE and not path.is_symlink():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
