"""Worker processes on this machine."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Annotated, Any

from pydantic import Field

from forgetkit.contracts import WorkerLost
from forgetkit.system.openmp import wait_passively

_GRACE = 30.0
"""Seconds that a worker has to leave once it was asked to: it may have a long step to finish, and a state to write."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Local:
    """Worker processes on this machine.

    jobs: how many there are, each with one task at a time.
    threads: of each; none: an equal share of the processor cores, or of OMP_NUM_THREADS where that is set; one worker
        alone takes what torch takes.
    devices: which CUDA devices there are for the workers, as CUDA_VISIBLE_DEVICES lists them (0,1); each sees one of
        them, in turn, so that several workers share one where there are fewer;
        auto: all, and a worker alone sees them all;
        none: every worker sees them all.

    Cost: a process and an import of torch for each worker, once.
    """

    jobs: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] | None = None
    devices: Annotated[str, Field(min_length=1)] | None = "auto"

    def execute(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
        """Each position and its answer, as the workers finish; a worker that runs out of tasks leaves."""
        waiting = deque(enumerate(tasks))
        crew: set[_WorkerProcess] = set()
        busy: dict[Any, tuple[_WorkerProcess, int]] = {}

        def hand_on(worker: _WorkerProcess) -> None:
            crew.add(worker)
            position, task = waiting.popleft()
            busy[worker.channel] = worker, position
            worker.send(pickle.dumps((work, task)))

        try:
            for environment in self._environments(min(self.jobs, len(tasks))):
                hand_on(_WorkerProcess(environment))
            while busy:
                for channel in wait(list(busy)):
                    worker, position = busy.pop(channel)
                    answer = worker.answer()
                    if waiting:
                        hand_on(_WorkerProcess(worker.environment) if worker.gone else worker)
                    else:
                        worker.send(b"")
                    yield position, answer
        finally:
            for worker in crew:
                worker.dismiss(at_once=worker.channel in busy)
            for worker in crew:
                worker.end()

    def _environments(self, count: int) -> list[Mapping[str, str]]:
        """The environment of each of ``count`` workers."""
        shared = dict(os.environ)
        wait_passively(shared)
        if self.threads or self.jobs > 1:
            shared |= dict.fromkeys(_THREADS, str(self.threads or max(_cores() // self.jobs, 1)))
        devices = self._devices(count)
        if not devices:
            return [shared] * count
        return [{**shared, "CUDA_VISIBLE_DEVICES": devices[place % len(devices)]} for place in range(count)]

    def _devices(self, count: int) -> Sequence[str]:
        """Those that ``count`` workers are to share; none where they are left alone."""
        if self.devices == "auto":
            return _visible_devices() if count > 1 else ()
        return self.devices.split(",") if self.devices else ()


def _cores() -> int:
    """How many this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible_devices() -> Sequence[str]:
    """Those that torch would see, under the names that CUDA_VISIBLE_DEVICES has for them."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (listed.split(",") if listed else [str(number) for number in range(count)])[:count]


@dataclass(eq=False)
class _WorkerProcess:
    """A process that does one task after another, in a process group of its own with whatever its tasks start.

    It is no ``multiprocessing.Process``: that would import the caller's script again, could not be given an
    environment, and would leave a process behind that tracks resources.
    """

    environment: Mapping[str, str]
    channel: Connection = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.channel, theirs = Pipe()
        code = "import sys; sys.path[:] = {}; from forgetkit.builtin.executors.worker import main; main({})"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code.format([str(path) for path in sys.path], theirs.fileno())],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a task prints is no part of this process's output
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @property
    def gone(self) -> bool:
        return self.process.returncode is not None

    def send(self, message: bytes) -> None:
        """Hand it the pickled work and task, or nothing: then it leaves."""
        with contextlib.suppress(OSError):  # where it has died, that is found out when its answer is waited for
            self.channel.send_bytes(message)

    def answer(self) -> Any:
        """The answer, or Lost; raises what the work raised."""
        try:
            message = self.channel.recv_bytes()
        except (EOFError, OSError):
            status = self.end()
            return WorkerLost(_reason(status), status)
        answer, error = pickle.loads(message)
        if error is not None:
            raise error
        return answer

    def dismiss(self, *, at_once: bool) -> None:
        """Ask it to leave, in the midst of its task or by the ordinary way out."""
        if at_once:
            self._signal(signal.SIGTERM)
        else:
            self.send(b"")

    def end(self) -> int:
        """Its exit status, once neither it nor what it started is there any more."""
        if not self.gone:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE)
            self._signal(signal.SIGKILL)
            self.channel.close()
        return self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def _reason(status: int) -> str:
    if status >= 0:
        return f"the worker process left with exit status {status}"
    with contextlib.suppress(ValueError):
        return f"the worker process was killed by {signal.Signals(-status).name}"
    return f"the worker process was killed by signal {-status}"
