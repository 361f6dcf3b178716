"""Locks on files. The system releases a lock when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forgetkit.system import safe_open

_PAUSE = 0.02
"""Seconds between two tries."""


@contextmanager
def locked(path: Path, wait: float = 0.0, *, create: bool = False) -> Iterator[bool]:
    """Hold the lock of a file; a link in its place is not followed.

    Args:
        path: The file. It is opened for writing, which locks on network file systems need, and stays as it is.
        wait: Seconds to wait for another process that has the lock; ``math.inf`` waits until it is free.
        create: Make the file if it is not there.

    Yields:
        Whether this process has the lock.

    Raises:
        OSError: The file cannot be opened, or its file system has no locks.
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | (os.O_CREAT if create else 0)
    until = time.monotonic() + wait
    with contextlib.ExitStack() as opened:
        while not (holds := _lock_named(path, flags, opened)) and time.monotonic() <= until:
            time.sleep(_PAUSE)
        yield holds


def _lock_named(path: Path, flags: int, opened: contextlib.ExitStack) -> bool:
    """Whether the file is locked, and still bears the name: a copy may have taken its place."""
    with contextlib.ExitStack() as tried:
        descriptor = safe_open.file_opener(str(path), flags)
        tried.callback(os.close, descriptor)
        if not _lock(descriptor) or not os.path.lexists(path):
            return False
        if not os.path.samestat(path.lstat(), os.fstat(descriptor)):
            return False
        opened.push(tried.pop_all())
    return True


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        """Take the lock of an open file if no process has it: of one byte far behind its end, so that all can read."""
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        """Take the lock of an open file if no process has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
