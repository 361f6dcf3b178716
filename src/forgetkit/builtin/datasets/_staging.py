"""Folders that files are made in before they take their place."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ABANDONED = 24 * 3600
"""Seconds without a change after which the process that made a folder has died: one that works writes more often."""


@contextmanager
def staging(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``parent``, gone afterwards; those of that prefix that a kill left behind go first, by their age.

    Args:
        parent: Where the finished files belong, so that they can be moved there at once.
        prefix: What the names of such folders begin with.
    """
    for left in parent.glob(f"{prefix}*"):
        if not left.is_symlink() and time.time() - _last_change(left) > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
        yield Path(folder)


def _last_change(folder: Path) -> float:
    try:
        return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:  # somebody takes it away already
        return time.time()
