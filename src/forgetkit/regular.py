"""Files that others hand us: read only where they are files, so that no read waits for ever or never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def opener(path: str, flags: int) -> int:
    """For the ``opener`` of :func:`open`: an ``OSError`` where ``path`` is a pipe, a socket or a device.

    To open a pipe would wait until somebody writes to it; a device may have no end. A folder is left to ``open``,
    which refuses it.
    """
    descriptor = os.open(path, flags | _AT_ONCE)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no file but a pipe, a socket or a device", path)


def content(path: Path) -> bytes:
    """All bytes of a file; ``OSError`` where it is none, cannot be read, or cannot be named (a null character)."""
    try:
        with open(path, "rb", opener=opener) as file:
            return file.read()
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error
