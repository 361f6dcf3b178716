"""Work for the examination of executors, in a module that a worker imports without torch."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forgetkit.errors import RecordError
from forgetkit.system.file_lock import locked

_LINGERS = 2.0
"""Seconds for which a task runs if nothing ends it."""

IN_PROCESS = "in the process of the kit"
"""The answer of :func:`perish` if the executor has no worker."""


def double(task: Mapping[str, int]) -> dict[str, int]:
    """Return an answer."""
    return {"seed": task["seed"], "double": 2 * task["seed"]}


def refuse(task: Mapping[str, int]) -> dict[str, int]:
    """Raise on the second task, as a run does on a full disk."""
    if task["seed"] == 8:
        raise RecordError("the disk is full")
    return double(task)


def perish(task: Mapping[str, int]) -> dict[str, int] | str:
    """End the worker's process on the second task; in the process of the kit only report that."""
    if task["examiner"] == os.getpid():
        return IN_PROCESS
    if task["seed"] == 8:
        os._exit(3)
    return double(task)


def linger(task: Mapping[str, Any]) -> int:
    """Hold a lock until the folder is removed, except in the task that comes first."""
    folder, seed = Path(task["folder"]), int(task["seed"])
    with contextlib.suppress(OSError):
        try:
            (folder / "first").touch(exist_ok=False)
        except FileExistsError:
            _hold(folder, seed)
    return seed


def _hold(folder: Path, seed: int) -> None:
    until = time.monotonic() + _LINGERS
    with locked(folder / str(seed), math.inf, create=True):
        while folder.exists() and time.monotonic() < until:
            time.sleep(0.01)


def tasks(count: int, **shared: Any) -> list[dict[str, Any]]:
    """Return tasks that differ in their seed."""
    return [{**shared, "seed": 7 + position} for position in range(count)]
