"""The promises of executors, checked on small tasks."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from forgetkit.contracts import WorkerLost
from forgetkit.errors import RecordError
from forgetkit.system.file_lock import locked
from forgetkit.testing import rows
from forgetkit.testing.case import KitCase
from forgetkit.testing.executor_tasks import IN_PROCESS, double, linger, perish, refuse, tasks
from forgetkit.testing.promise import Failure, NotApplicable, row

_BEGINS = 0.25
"""Seconds in which an executor that keeps working after ``close`` begins its next task."""


@dataclass(frozen=True, eq=False)
class ExecutionRecord:
    """What an executor yielded, and its tasks before and after."""

    yielded: tuple[Any, ...]
    given: list[dict[str, Any]]
    after: list[dict[str, Any]]

    @property
    def pairs(self) -> tuple[tuple[int, Any], ...]:
        """What it yielded, for a promise that needs pairs."""
        for each in self.yielded:
            if _fault(each):
                raise NotApplicable("the promise 'pairs' is broken")
        return self.yielded

    @property
    def answers(self) -> dict[int, Any]:
        """The answers by their positions, for a promise that needs all of them."""
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
        """Execute ``work`` on some tasks, to the end."""
        handed = [dict(task) for task in some]
        given = copy.deepcopy(handed)
        return ExecutionRecord(tuple(self.another().execute(work, handed)), given, handed)

    def act(self) -> object:
        """Execute one task."""
        return self.executed(double, tasks(1))

    @cached_property
    def usual(self) -> ExecutionRecord:
        """The record of three tasks."""
        return self.executed(double, tasks(3))


def runs(case: ExecutorCase) -> None:
    """`execute(work, tasks)` ends for three tasks."""
    case.executed(double, tasks(3))


def pairs(case: ExecutorCase) -> None:
    """Each thing that is yielded is a pair: the position of a task and its answer."""
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
    """The answer beside a position is what `work` returned for the task at that position."""
    for position, answer in case.usual.answers.items():
        expected = double(case.usual.given[position])
        if answer != expected:
            raise Failure(f"it yields {answer!r} for position {position}, but the answer is {expected!r}")


def empty(case: ExecutorCase) -> None:
    """Without tasks nothing is yielded."""
    if case.executed(double, []).yielded:
        raise Failure("it yields an answer without a task")


def leaves_tasks(case: ExecutorCase) -> None:
    """The executor does not change the tasks."""
    if case.usual.given != case.usual.after:
        raise Failure("it changes the tasks that it is given")


def raises(case: ExecutorCase) -> None:
    """An exception in `work` reaches the caller unchanged."""
    try:
        case.executed(refuse, tasks(3))
    except RecordError:
        return
    except Exception as error:
        raise Failure(f"work raised RecordError, and the caller sees {type(error).__name__}: {error}") from error
    raise Failure("work raised RecordError, and the caller sees no exception")


def lost(case: ExecutorCase) -> None:
    """If a worker dies, the answer of its task is `WorkerLost` with a reason in one line; the others still run."""
    done = case.executed(perish, tasks(3, examiner=os.getpid()))
    if IN_PROCESS in (answer for _, answer in done.pairs):
        raise NotApplicable("it works in the caller's own process")
    found = done.answers
    if not isinstance(found[1], WorkerLost) or len(str(found[1].reason).splitlines()) != 1:
        raise Failure(
            f"the worker of a task died, and its answer is {found[1]!r}, not WorkerLost with a reason in one line"
        )
    for position in (0, 2):
        if found[position] != double(done.given[position]):
            raise Failure(f"the worker of a task died, and the answer of another task is {found[position]!r}")


def closes(case: ExecutorCase) -> None:
    """If it is closed after its first answer, no work continues on this machine."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        running = case.another().execute(linger, tasks(3, folder=folder))
        if not isinstance(running, Generator):
            raise Failure(
                f"execute() returns {type(running).__name__}, which cannot be closed; write it as a generator"
            )
        next(running)
        running.close()
        time.sleep(_BEGINS)
        for task in tasks(3):
            with locked(Path(folder, str(task["seed"])), create=True) as is_free:
                if not is_free:
                    raise Failure("a task continues after close()")


PROMISES = (
    *map(row, (runs, pairs, complete, answers, empty, leaves_tasks, raises, lost, closes)),
    rows.LEAVES_SETTINGS,
)
