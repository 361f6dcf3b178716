"""Files that others hand us: read only where they are files, so that no read waits for ever or never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def open_file(path: Path | str) -> BinaryIO:
    """A file to read; ``OSError`` where it is none or cannot be opened, or its name holds a null character.

    To open a pipe would wait until somebody writes to it, and a device may have no end: both are refused.
    """
    try:
        return open(path, "rb", opener=file_opener)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error


def read_bytes(path: Path) -> bytes:
    """All bytes of a file, as :func:`open_file` opens it."""
    with open_file(path) as file:
        return file.read()


def file_opener(path: str, flags: int) -> int:
    """For :func:`open`: a descriptor of a file, or of a folder, which is found out by whoever asked."""
    descriptor = os.open(path, flags | _AT_ONCE, 0o666)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no file but a pipe, a socket or a device", path)
