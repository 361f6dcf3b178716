"""One cell, run wherever an executor puts it."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from forgetkit import config
from forgetkit.config.machine import cache_folder
from forgetkit.contracts import Keep
from forgetkit.engine.run import run_plan
from forgetkit.errors import DivergedError, ForgetkitError, RecordError, RunDirectoryError, RunInUseError
from forgetkit.registry import registry
from forgetkit.results.cell_store import CellStore
from forgetkit.results.outcome import Status
from forgetkit.system.interrupts import StopRequest, handle_signals

_PAUSE = 1.0
"""Seconds between two looks at a cell that another process runs."""


@dataclass(frozen=True)
class Task:
    """What a process on this or another machine needs to run a cell; it can be pickled."""

    folder: str
    digest: str
    options: Mapping[str, Any]
    plugins: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    keep: Keep = "last"
    wait_if_locked: bool = False
    """Whether to wait if another process runs the cell."""
    failed_at: int = 0
    """When the failure was recorded because of which the cell is tried again; a later one is another process's."""


@dataclass(frozen=True)
class CellResult:
    """The result of a task."""

    status: Status
    reason: str = ""

    def failure(self, name: str) -> str | None:
        """A line about a cell called ``name`` that is not completed; None if it is."""
        if self.status == "completed":
            return None
        verb = {"missing": "", "diverged": " diverged"}.get(self.status, " failed")
        return f"{name}{verb}: {self.reason}"


def run_cell(task: Task) -> CellResult | None:
    """Run or resume a cell, or find that it is finished; None if another process runs it and the task does not wait.

    Signals stop it as they stop a run, with a checkpoint. Raises only that interruption, ``RecordError`` if the folder
    cannot be written to, and ``SystemExit`` if this process can use CUDA no more; the cell is recorded by then.
    """
    stop = StopRequest()
    with handle_signals(stop):
        result = _run_locked(task, stop)
        stop.check()  # a request after the last look of the run
    if torch.cuda.is_initialized() and not _cuda_works(str(task.options.get("device"))):
        raise SystemExit("forgetkit: after a fault of CUDA this process ends, since nothing could run in it any more")
    return result


def _cuda_works(device: str) -> bool:
    """Return whether CUDA still works: after a fault in a kernel every call fails.

    Unused memory is given back to the device for other workers.
    """
    gc.collect()
    try:
        torch.cuda.synchronize(device if device.startswith("cuda") else None)
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def _run_locked(task: Task, stop: StopRequest) -> CellResult | None:
    store = CellStore(Path(task.folder))
    with contextlib.ExitStack() as locks:
        try:
            if not locks.enter_context(store.lock(task.digest, math.inf if task.wait_if_locked else 0.0)):
                return None
        except OSError as error:
            raise RecordError(f"cannot lock {store.directory(task.digest)}: {error.strerror}") from error
        found = store.find(task.digest)
        if found.status in ("completed", "diverged") or found.failed_at not in (0, task.failed_at):
            return CellResult(found.status, found.reason)
        try:
            while not _try_run_cell(store, task, stop):
                if not task.wait_if_locked:
                    return None
                time.sleep(_PAUSE)
        except RecordError:
            raise
        except DivergedError as error:
            store.fail(task.digest, "diverged", str(error))
            store.remove_stale(task.digest, task.keep)  # a diverged cell is not resumed
            return CellResult("diverged", str(error))
        except ForgetkitError as error:
            store.fail(task.digest, "failed", str(error))
            return CellResult("failed", str(error))
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the other cells still run
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            store.fail(task.digest, "failed", reason)
            return CellResult("failed", reason)
        return CellResult("completed")


def _try_run_cell(store: CellStore, task: Task, stop: StopRequest) -> bool:
    """Try to run the cell, and return whether it ran; it does not if a user resumes its run by hand."""
    try:
        _run_or_resume(store, task, stop)
    except RunInUseError:
        return False
    return True


def _run_or_resume(store: CellStore, task: Task, stop: StopRequest) -> None:
    components = registry.load(without=task.without, files=[Path(file) for file in task.plugins])
    path = store.directory(task.digest)
    unfinished = store.open_unfinished(task.digest)
    own = {"out": str(path.parent), "name": path.name}
    plan = config.resolve({**task.options, **own}, components)
    try:
        run_plan(plan, cache=cache_folder(), resume=unfinished, stop=stop, remarks=False, keep_checkpoints=True)
    except RunInUseError:
        raise
    except RunDirectoryError as error:
        if unfinished is None:
            raise
        if not unfinished.finished:  # a user may have finished it by hand
            store.discard(task.digest, error)  # other data, or the checkpoint of another run
            run_plan(plan, cache=cache_folder(), stop=stop, remarks=False, keep_checkpoints=True)
    store.seal(task.digest)
    store.remove_stale(task.digest, task.keep)
