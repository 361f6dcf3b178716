"""One process at a time works on a run, and the others are told which."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from forgetkit.errors import RecordError, RunDirectoryError, RunInUseError
from forgetkit.record.files import read_sealed, write_sealed

LOCK, HOLDER = "run.lock", "run.holder.json"
_PATIENCE = 0.3
"""Seconds: whoever has just got the lock writes its name down, and whoever just lets go takes the files away."""
_SHOWN = 80
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_TIME, _DAY = "%H:%M:%S", "%Y-%m-%d %H:%M:%S"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While this process has the folder of a run to itself; both files of the lock are gone afterwards.

    The system lets go of the lock when the process dies, by whatever death: the files that stay then mean nothing.
    Raises ``RunInUseError``, which names the holder; ``RunDirectoryError`` where the folder may not be written to.
    """
    lock = _taken(folder)
    try:
        write_sealed(folder / HOLDER, _this_process())
        yield
    finally:
        for name in (HOLDER, LOCK):  # while the lock is held: whoever waits for it sees that its file is no more
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        lock.release()


def _taken(folder: Path) -> FileLock:
    """The lock, once the file that is locked is the one that bears the name: its last holder may have removed it."""
    path = folder / LOCK
    lock = FileLock(path)
    while True:
        if path.is_symlink():
            raise RunDirectoryError(f"{path} is a link, which no lock is: take it away")
        before = _identity(path)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout as error:
            raise RunInUseError(f"{folder} is in use by {_holder(folder)}: wait for it or stop it") from error
        except OSError as error:
            if error.errno not in _FORBIDDEN:  # a full disk is nobody's mistake
                raise RecordError(f"cannot write {path}: {error.strerror}") from error
            raise RunDirectoryError(
                f"{folder} may not be written to ({error.strerror}): make it writable, or go on with a copy of it"
            ) from error
        if before is not None and before == _identity(path):
            return lock
        lock.release()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _this_process() -> dict[str, Any]:
    words = ["forgetkit" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "process": os.getpid(),
        "host": platform.node(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(words),
    }


def _holder(folder: Path) -> str:
    """Who has it, in words; whoever it is where that cannot be told."""
    try:
        found = read_sealed(folder / HOLDER)
        since = datetime.fromisoformat(found["since"]).astimezone()
        today = since.date() == datetime.now().astimezone().date()
        command = found["command"] if len(found["command"]) <= _SHOWN else f"{found['command'][: _SHOWN - 1]}…"
        text = f"process {found['process']} on {found['host']} since {since:{_TIME if today else _DAY}} ({command})"
    except (RunDirectoryError, KeyError, TypeError, ValueError):
        return "another process"
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
