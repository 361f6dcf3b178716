"""Several trainings on one device: all at once, and one after the other."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from comparisons.measure import Side, Sides
from comparisons.training import Work, framework

Make = Callable[[str], Side]
"""Sets a side up on a device, in the worker: a module's function, since it is pickled."""

_SAMPLES = 12_800
_GRACE = 5.0
"""Seconds that a worker has to end by itself."""


@dataclass(frozen=True, eq=False)
class WorkerPool:
    """Processes that each hold a side and do its work on demand."""

    workers: Sequence[tuple[BaseProcess, Connection]]

    @classmethod
    def start(cls, count: int, make: Make, device: str) -> WorkerPool:
        """Start ``count`` processes and wait until each has set its side up."""
        spawn = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
        workers = []
        for _ in range(count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(theirs, make, device), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
        pool = cls(workers)
        try:
            for _, connection in workers:
                _receive(connection)
        except BaseException:
            pool.close()
            raise
        return pool

    def at_once(self) -> int:
        """Let all work at the same time; returns the samples of all."""
        for _, connection in self.workers:
            connection.send("go")
        return sum(_receive(connection) for _, connection in self.workers)

    def in_turn(self) -> int:
        """Let one work after the other; returns the samples of all."""
        done = 0
        for _, connection in self.workers:
            connection.send("go")
            done += _receive(connection)
        return done

    def close(self) -> None:
        """End the processes, working or not."""
        for _, connection in self.workers:
            connection.close()
        for process, _ in self.workers:
            process.join(_GRACE)
            process.kill()
            process.join()


def several_trainings(count: int, device: str) -> Sides:
    """Train ResNet-18 in ``count`` processes."""
    pool = WorkerPool.start(count, _resnet18, device)
    return Sides(pool.at_once, pool.in_turn, close=pool.close)


def _resnet18(device: str) -> Side:
    return framework(replace(Work.images("resnet18", _SAMPLES, device), augment="crop-flip", bf16=True))


def _work(connection: Connection, make: Make, device: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends its workers
    side = make(device)
    side()
    connection.send(0)
    with suppress(EOFError, ConnectionError):  # the parent closes, whether or not it has read the last answer
        while True:
            connection.recv()
            done = side()
            with suppress(BrokenPipeError):
                connection.send(done)


def _receive(connection: Connection) -> int:
    try:
        return int(connection.recv())
    except EOFError as error:
        raise RuntimeError("a worker of the case sharing died; see its error above") from error
