"""What an executor promises, on small tasks that import no torch where they are done."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from forgetkit.contracts import WorkerLost
from forgetkit.errors import RecordError
from forgetkit.system.file_lock import locked
from forgetkit.testing.common import KitCase
from forgetkit.testing.promise import Failure, NotApplicable, Promise, promise

_LINGERS = 2.0
"""Seconds for which a task goes on that nobody ends."""
_BEGINS = 0.25
"""Seconds in which what goes on after the end has begun its next task."""
_HERE = "in the examiner's own process"


def double(task: Mapping[str, int]) -> dict[str, int]:
    """Work that has an answer."""
    return {"seed": task["seed"], "double": 2 * task["seed"]}


def refuse(task: Mapping[str, int]) -> dict[str, int]:
    """Work that raises on the second task, as a run does on a full disk."""
    if task["seed"] == 8:
        raise RecordError("the disk is full")
    return double(task)


def perish(task: Mapping[str, int]) -> dict[str, int] | str:
    """Work that ends its worker's process on the second task, but for that of the examiner."""
    if task["examiner"] == os.getpid():
        return _HERE
    if task["seed"] == 8:
        os._exit(3)
    return double(task)


def linger(task: Mapping[str, Any]) -> int:
    """Work that has a file locked until somebody takes its folder away, but for whichever task comes first."""
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
    """Tasks that differ in their seed."""
    return [{**shared, "seed": 7 + position} for position in range(count)]


@dataclass(frozen=True, eq=False)
class ExecutionRecord:
    """What an executor yielded, and what it had been given, before and after."""

    yielded: tuple[Any, ...]
    given: list[dict[str, Any]]
    after: list[dict[str, Any]]

    @property
    def pairs(self) -> tuple[tuple[int, Any], ...]:
        """What it yielded, for a promise that is not about the form of that."""
        for each in self.yielded:
            if _fault(each):
                raise NotApplicable("the promise 'pairs' is broken")
        return self.yielded

    @property
    def answers(self) -> dict[int, Any]:
        """The answers by their positions, for a promise that is not about which there are."""
        answers = dict(self.pairs)
        if sorted(position for position, _ in self.pairs) != list(range(len(self.given))):
            raise NotApplicable("the promise 'complete' is broken")
        return answers


def _fault(each: Any) -> str:
    if not isinstance(each, tuple) or len(each) != 2:
        return f"it yields {type(each).__name__}, not a pair of a position and an answer"
    if isinstance(each[0], bool) or not isinstance(each[0], int):
        return f"it yields a pair that begins with {type(each[0]).__name__}, not with a position"
    return ""


@dataclass(frozen=True, eq=False)
class ExecutorCase(KitCase):
    """An executor under examination."""

    def executed(self, work: Callable[[Any], Any], some: Sequence[dict[str, Any]]) -> ExecutionRecord:
        """``work`` on some tasks, to the end."""
        handed = [dict(task) for task in some]
        given = copy.deepcopy(handed)
        return ExecutionRecord(tuple(self.another().execute(work, handed)), given, handed)

    @cached_property
    def usual(self) -> ExecutionRecord:
        """Three tasks, for every promise that is about those."""
        return self.executed(double, tasks(3))


def runs(case: ExecutorCase) -> None:
    """`execute(work, tasks)` comes to its end for three tasks."""
    case.usual.yielded  # noqa: B018 - asking is running


def pairs(case: ExecutorCase) -> None:
    """Each thing that is yielded is the position of a task and the answer to it."""
    for each in case.usual.yielded:
        fault = _fault(each)
        if fault:
            raise Failure(fault)


def complete(case: ExecutorCase) -> None:
    """Each task is done, and yielded once."""
    positions = sorted(position for position, _ in case.usual.pairs)
    if positions != [0, 1, 2]:
        raise Failure(f"of three tasks it yields the positions {positions}")


def answers(case: ExecutorCase) -> None:
    """The answer that stands beside a position is what `work` returned for the task there."""
    for position, answer in case.usual.answers.items():
        expected = double(case.usual.given[position])
        if answer != expected:
            raise Failure(f"beside position {position} stands {answer!r}, where the answer is {expected!r}")


def empty(case: ExecutorCase) -> None:
    """Without tasks nothing is yielded."""
    if case.executed(double, []).yielded:
        raise Failure("it yields an answer without a task")


def leaves_tasks(case: ExecutorCase) -> None:
    """The tasks are as before."""
    if case.usual.given != case.usual.after:
        raise Failure("it changes the tasks that it is handed")


def raises(case: ExecutorCase) -> None:
    """What `work` raises reaches the caller, as the exception that it is."""
    try:
        case.executed(refuse, tasks(3))
    except RecordError:
        return
    except Exception as error:
        raise Failure(f"work raised RecordError, and the caller sees {type(error).__name__}: {error}") from error
    raise Failure("work raised RecordError, and the caller sees nothing of it")


def lost(case: ExecutorCase) -> None:
    """If a worker dies over a task, `WorkerLost` with a reason in one line is its answer; the others go on."""
    done = case.executed(perish, tasks(3, examiner=os.getpid()))
    if _HERE in (answer for _, answer in done.pairs):
        raise NotApplicable("it works in the process of whoever asks, and dies with that")
    found = done.answers
    if not isinstance(found[1], WorkerLost) or len(str(found[1].reason).splitlines()) != 1:
        raise Failure(
            f"the worker of a task died, and beside its position stands {found[1]!r}, not WorkerLost with a reason"
        )
    for position in (0, 2):
        if found[position] != double(done.given[position]):
            raise Failure(f"the worker of a task died, and beside another's position stands {found[position]!r}")


def closes(case: ExecutorCase) -> None:
    """Closed after its first answer, it leaves no work going on, as far as this machine can see."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        under_way = case.another().execute(linger, tasks(3, folder=folder))
        if not isinstance(under_way, Generator):
            raise Failure(
                f"execute() returns {type(under_way).__name__}, which cannot be closed; write it as a generator"
            )
        next(under_way)
        under_way.close()
        time.sleep(_BEGINS)
        for task in tasks(3):
            with locked(Path(folder, str(task["seed"])), create=True) as is_free:
                if not is_free:
                    raise Failure("a task goes on after close()")


def leaves_settings(case: ExecutorCase) -> None:
    """The process-wide settings of torch and NumPy (default dtype, grad mode, autocast …) are as they were."""
    from forgetkit.testing import comparing  # a worker that does the tasks of this module needs no torch

    with comparing.watch_settings():
        case.executed(double, tasks(1))


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return promise(
        "executors", runs, pairs, complete, answers, empty, leaves_tasks, raises, lost, closes, leaves_settings
    )
