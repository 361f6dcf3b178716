"""Several runs on one device, at once and one after the other."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from forgetkit.bench.measure import BenchmarkOptions, Side, Sides
from forgetkit.errors import ForgetkitError

Make = Callable[[BenchmarkOptions], Side]
"""Makes a worker's side, in that worker: a function of a module, so that it can be sent there."""

_SAMPLES = 12_800
_GRACE = 5.0
"""Seconds for a worker that is dismissed to end by itself."""


@dataclass(frozen=True, eq=False)
class WorkerPool:
    """Processes that each hold a side of their own and do its work when they are told."""

    workers: Sequence[tuple[BaseProcess, Connection]]

    @classmethod
    def hired(cls, count: int, make: Make, setting: BenchmarkOptions) -> WorkerPool:
        """``count`` processes, which have all made their side ready."""
        spawn = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
        workers = []
        for _ in range(count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(theirs, make, setting), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
        crew = cls(workers)
        try:
            for _, connection in workers:
                _receive(connection)
        except BaseException:
            crew.dismiss()
            raise
        return crew

    def at_once(self) -> int:
        """All work; returns how much was done by all."""
        for _, connection in self.workers:
            connection.send("go")
        return sum(_receive(connection) for _, connection in self.workers)

    def in_turn(self) -> int:
        """Each works alone; returns how much was done by all."""
        done = 0
        for _, connection in self.workers:
            connection.send("go")
            done += _receive(connection)
        return done

    def dismiss(self) -> None:
        """End the processes, also where one of them is at work."""
        for _, connection in self.workers:
            connection.close()
        for process, _ in self.workers:
            process.join(_GRACE)
            process.kill()
            process.join()


def at_once(count: int, setting: BenchmarkOptions) -> Sides:
    """``count`` processes that train ResNet-18 on one device."""
    crew = WorkerPool.hired(count, resnet18, setting)
    return Sides(crew.at_once, crew.in_turn, close=crew.dismiss)


def resnet18(setting: BenchmarkOptions) -> Side:
    """An epoch of ResNet-18 in bf16."""
    from forgetkit.bench.training import Work, framework

    return framework(replace(Work.images("resnet18", _SAMPLES, setting), augment="crop-flip", bf16=True))


def _work(connection: Connection, make: Make, setting: BenchmarkOptions) -> None:
    """The life of a worker: its side once to warm up, then each time it is told, until nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that hired it to act on
    side = make(setting)
    side()
    connection.send(0)
    with suppress(EOFError):
        while True:
            connection.recv()
            done = side()
            with suppress(BrokenPipeError):
                connection.send(done)


def _receive(connection: Connection) -> int:
    try:
        return int(connection.recv())
    except EOFError as error:
        raise ForgetkitError("a process of the case sharing died; its reason stands above") from error
