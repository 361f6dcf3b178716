"""Folders that files are made in before they take their place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forgetkit.system import stale_files


@contextmanager
def staging(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``parent``, gone afterwards; those of that prefix that a kill left behind go first, by their age.

    Args:
        parent: Where the finished files belong, so that they can be moved there at once.
        prefix: What the names of such folders begin with.
    """
    stale_files.remove_stale_files(parent.glob(f"{prefix}*"))
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
        yield Path(folder)
