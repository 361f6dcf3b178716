"""One process at a time works on a run, and the others learn which one does."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from forgetkit.errors import RecordError, RunDirectoryError, RunInUseError
from forgetkit.record.files import read_sealed, write_sealed
from forgetkit.system import regular

LOCKED, HOLDER = "manifest.json", "run.holder.json"
_PATIENCE, _PAUSE = 0.3, 0.02
"""Seconds: a process that has just taken the lock writes its name, and one that leaves needs a moment to go."""
_SHOWN = 80
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_TIME, _DAY = "%H:%M:%S", "%Y-%m-%d %H:%M:%S"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep the folder of a run to this process.

    The lock is on the manifest: a run without it is none, so nobody can remove the lock and keep the run. The system
    releases it when the process dies, by whatever death; the name of the holder that then stays means nothing.

    Raises:
        RunInUseError: Another process holds the run; the message names it.
        RunDirectoryError: The manifest is missing or no file, or the folder is read-only.
    """
    descriptor = _locked(folder)
    try:
        _write_holder(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink()
        os.close(descriptor)


def _locked(folder: Path) -> int:
    """A descriptor of the manifest that holds its lock."""
    path, until = folder / LOCKED, time.monotonic() + _PATIENCE
    while True:
        with contextlib.ExitStack() as opened:
            try:
                descriptor = regular.opener(str(path), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
                opened.callback(os.close, descriptor)
                locked = _lock(descriptor)
            except FileNotFoundError as error:
                raise RunDirectoryError(f"{folder} holds no {LOCKED}, so it is not the directory of a run") from error
            except OSError as error:  # a file system without locks, too
                raise RunDirectoryError(f"{path} cannot be locked: {error.strerror}") from error
            if locked and _is_named(path, descriptor):
                opened.pop_all()
                return descriptor
        if time.monotonic() > until:
            raise RunInUseError(f"{folder} is in use by {_holder(folder)}: wait for it or stop it")
        time.sleep(_PAUSE)


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


def _is_named(path: Path, descriptor: int) -> bool:
    """Whether the name still leads to the file that is locked: a copy may have been put in its place."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def _write_holder(folder: Path) -> None:
    try:
        write_sealed(folder / HOLDER, _this_process())
    except RecordError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _FORBIDDEN:  # a full disk is nobody's mistake
            raise
        raise RunDirectoryError(
            f"{folder} may not be written to ({cause.strerror}): make it writable, or resume a copy of it"
        ) from error


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
