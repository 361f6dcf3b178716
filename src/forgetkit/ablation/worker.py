"""One cell carried out, wherever an executor puts it."""

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

from forgetkit import api, config
from forgetkit.contracts import Keep
from forgetkit.engine.run import run_plan
from forgetkit.errors import DivergedError, ForgetkitError, RecordError, RunDirectoryError, RunInUseError
from forgetkit.registry import registry
from forgetkit.results.cell_store import CellStore
from forgetkit.results.outcome import Status
from forgetkit.system.interrupts import StopRequest, handle_signals

_PAUSE = 1.0
"""Seconds between two looks at a run that somebody else has in hand."""


@dataclass(frozen=True)
class Task:
    """All that a process on this machine or another needs to carry a cell out; it can be pickled."""

    folder: str
    digest: str
    options: Mapping[str, Any]
    plugins: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    keep: Keep = "last"
    patient: bool = False
    """Wait where another process has the cell in hand."""
    failed_at: int = 0
    """When the failure was written that the cell is tried again for; another one is another process's answer."""


@dataclass(frozen=True)
class CellResult:
    """What came of a task."""

    status: Status
    reason: str = ""


def run_cell(task: Task) -> CellResult | None:
    """Run a cell, or go on with it, or find that it is done; None where another process has it and we do not wait.

    Signals stop it as they stop a run: with a state from which another process goes on. Only that interruption and a
    folder that cannot be written to are raised, and ``SystemExit`` where this process can use CUDA no more: what came
    of the cell is written down by then.
    """
    halt = StopRequest()
    with handle_signals(halt):
        ended = _run_in_turn(task, halt)
        halt.check()  # what was asked after the run had looked for the last time
    if torch.cuda.is_initialized() and not _device_answers(str(task.options.get("device"))):
        raise SystemExit("forgetkit: after a fault of CUDA this process ends, since nothing could run in it any more")
    return ended


def _device_answers(device: str) -> bool:
    """Whether CUDA answers: after a fault in a kernel every call fails, whatever became of the one that met it first.

    What is held and not needed goes back to the device, where other workers may want it.
    """
    gc.collect()
    try:
        torch.cuda.synchronize(device if device.startswith("cuda") else None)
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def _run_in_turn(task: Task, halt: StopRequest) -> CellResult | None:
    pool = CellStore(Path(task.folder))
    with contextlib.ExitStack() as held:
        try:
            if not held.enter_context(pool.lock(task.digest, math.inf if task.patient else 0.0)):
                return None
        except OSError as error:
            raise RecordError(f"cannot lock {pool.directory(task.digest)}: {error.strerror}") from error
        found = pool.find(task.digest)
        if found.status in ("completed", "diverged") or found.failed_at not in (0, task.failed_at):
            return CellResult(found.status, found.reason)
        try:
            while not _ran_cell(pool, task, halt):
                if not task.patient:
                    return None
                time.sleep(_PAUSE)
        except RecordError:
            raise
        except DivergedError as error:
            pool.fail(task.digest, "diverged", str(error))
            pool.remove_stale(task.digest, task.keep)  # a diverged cell is not resumed
            return CellResult("diverged", str(error))
        except ForgetkitError as error:
            pool.fail(task.digest, "failed", str(error))
            return CellResult("failed", str(error))
        except Exception as error:  # noqa: BLE001 - a component of a stranger may raise anything; the other cells go on
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            pool.fail(task.digest, "failed", reason)
            return CellResult("failed", reason)
        return CellResult("completed")


def _ran_cell(pool: CellStore, task: Task, halt: StopRequest) -> bool:
    """Whether a cell was carried out; not where somebody goes on with its run by hand."""
    try:
        _run_or_resume(pool, task, halt)
    except RunInUseError:
        return False
    return True


def _run_or_resume(pool: CellStore, task: Task, halt: StopRequest) -> None:
    offers = registry.load(without=task.without, files=[Path(file) for file in task.plugins])
    path = pool.directory(task.digest)
    unfinished = pool.reopened(task.digest)
    own = {"out": str(path.parent), "name": path.name}
    plan = config.resolve({**task.options, **own}, offers)
    try:
        run_plan(plan, cache=api.cache_folder(), resume=unfinished, stop=halt, remarks=False, keep_checkpoints=True)
    except RunInUseError:
        raise
    except RunDirectoryError as error:
        if unfinished is None:
            raise
        if not unfinished.finished:  # by hand, before we had it
            pool.discard(task.digest, error)  # its data changed, or its state is another's
            run_plan(plan, cache=api.cache_folder(), stop=halt, remarks=False, keep_checkpoints=True)
    pool.seal(task.digest)
    pool.remove_stale(task.digest, task.keep)
