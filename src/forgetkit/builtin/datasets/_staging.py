"""Temporary folders in which files are written before they are renamed into place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forgetkit.system import stale_files


@contextmanager
def staging(parent: Path, prefix: str) -> Iterator[Path]:
    """Give a temporary folder in ``parent``; first remove old ones that killed processes left behind.

    Args:
        parent: Folder on the same file system as the final place, so that a rename is atomic.
        prefix: Prefix of the names of such folders.
    """
    stale_files.remove_stale_files(parent.glob(f"{prefix}*"))
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
        yield Path(folder)
