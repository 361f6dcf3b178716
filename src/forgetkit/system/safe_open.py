"""Opening of files that may be something else: a pipe or a device is refused, since its reading may never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def open_file(path: Path | str) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: It is no regular file or folder, cannot be opened, or its name holds a null character.
    """
    try:
        return open(path, "rb", opener=file_opener)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error


def read_bytes(path: Path) -> bytes:
    """Read all bytes of a file that :func:`open_file` opens."""
    with open_file(path) as file:
        return file.read()


def file_opener(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open`: opens a regular file, or a folder, which the caller must refuse."""
    descriptor = os.open(path, flags | _AT_ONCE, 0o666)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no file but a pipe, a socket or a device", path)
