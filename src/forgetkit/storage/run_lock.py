"""The lock of a run: one process at a time works on it, and errors name that process."""

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

from forgetkit.errors import RecordError, RunDirectoryError, RunInUseError
from forgetkit.storage.atomic_files import read_with_digest, write_with_digest
from forgetkit.system.file_lock import locked

LOCKED, HOLDER = "manifest.json", "run.holder.json"
_REMEDY = "make it writable, or resume a copy of it"
_PATIENCE = 0.3
"""Seconds: a process that takes the lock then writes its name, and one that ends releases it a moment later."""
_SHOWN = 80
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_TIME, _DAY = "%H:%M:%S", "%Y-%m-%d %H:%M:%S"


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Lock the folder of a run.

    The lock is on the manifest: without it there is no run, so no process can remove the lock and keep the run. The
    system releases it when the process ends; a holder's name that is left then means nothing.

    Raises:
        RunInUseError: Another process holds the run; the message names it.
        RunDirectoryError: The manifest is missing or no file, or the folder is read-only.
    """
    path = folder / LOCKED
    with contextlib.ExitStack() as lock:
        try:
            holds = lock.enter_context(locked(path, _PATIENCE))
        except FileNotFoundError as error:
            raise RunDirectoryError(f"{folder} holds no {LOCKED}, so it is not the directory of a run") from error
        except OSError as error:  # a file system without locks, too
            raise RunDirectoryError(f"{path} cannot be locked: {error.strerror}; {_REMEDY}") from error
        if not holds:
            raise RunInUseError(f"{folder} is in use by {_describe_holder(folder)}: wait for it or stop it")
        try:
            _write_holder(folder)
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / HOLDER).unlink()


def _write_holder(folder: Path) -> None:
    try:
        write_with_digest(folder / HOLDER, _this_process())
    except RecordError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _FORBIDDEN:  # a full disk is no mistake of the user
            raise
        raise RunDirectoryError(f"{folder} may not be written to ({cause.strerror}): {_REMEDY}") from error


def _this_process() -> dict[str, Any]:
    words = ["forgetkit" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "process": os.getpid(),
        "host": platform.node(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(words),
    }


def _describe_holder(folder: Path) -> str:
    """Describe the process that holds the lock; "another process" if its file is damaged."""
    try:
        found = read_with_digest(folder / HOLDER)
        since = datetime.fromisoformat(found["since"]).astimezone()
        today = since.date() == datetime.now().astimezone().date()
        command = found["command"] if len(found["command"]) <= _SHOWN else f"{found['command'][: _SHOWN - 1]}…"
        text = f"process {found['process']} on {found['host']} since {since:{_TIME if today else _DAY}} ({command})"
    except (RunDirectoryError, KeyError, TypeError, ValueError):
        return "another process"
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
