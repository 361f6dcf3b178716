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
"""Seconds that a worker has to stop: it may have to finish a long step and write a checkpoint."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Local:
    """Worker processes on this machine.

    jobs: how many workers, each with one task at a time.
    threads: threads of each worker; none: an equal part of the processor cores, or of OMP_NUM_THREADS if it is set; a
        single worker takes torch's default.
    devices: CUDA devices for the workers, as CUDA_VISIBLE_DEVICES lists them (0,1); each worker sees one of them, in
        turn, so several workers share a device if there are fewer;
        auto: all devices, and a single worker sees them all;
        none: every worker sees all devices.

    Cost: a process and an import of torch for each worker, once.
    """

    jobs: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] | None = None
    devices: Annotated[str, Field(min_length=1)] | None = "auto"

    def execute(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
        """Yield the position and the answer of each task as workers finish; a worker without a next task ends."""
        waiting = deque(enumerate(tasks))
        workers: set[_WorkerProcess] = set()
        busy: dict[Any, tuple[_WorkerProcess, int]] = {}

        def assign_next(worker: _WorkerProcess) -> None:
            workers.add(worker)
            position, task = waiting.popleft()
            busy[worker.channel] = worker, position
            worker.send(pickle.dumps((work, task)))

        try:
            for environment in self._environments(min(self.jobs, len(tasks))):
                assign_next(_WorkerProcess(environment))
            while busy:
                for channel in wait(list(busy)):
                    worker, position = busy.pop(channel)
                    answer = worker.answer()
                    if waiting:
                        assign_next(_WorkerProcess(worker.environment) if worker.has_ended else worker)
                    else:
                        worker.send(b"")
                    yield position, answer
        finally:
            for worker in workers:
                worker.dismiss(at_once=worker.channel in busy)
            for worker in workers:
                worker.end()

    def _environments(self, count: int) -> list[Mapping[str, str]]:
        """The environment variables of each of ``count`` workers."""
        shared = dict(os.environ)
        wait_passively(shared)
        if self.threads or self.jobs > 1:
            shared |= dict.fromkeys(_THREADS, str(self.threads or max(_cores() // self.jobs, 1)))
        devices = self._devices(count)
        if not devices:
            return [shared] * count
        return [{**shared, "CUDA_VISIBLE_DEVICES": devices[place % len(devices)]} for place in range(count)]

    def _devices(self, count: int) -> Sequence[str]:
        """The devices that ``count`` workers share; empty if workers see all devices."""
        if self.devices == "auto":
            return _visible_devices() if count > 1 else ()
        return self.devices.split(",") if self.devices else ()


def _cores() -> int:
    """How many cores this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible_devices() -> Sequence[str]:
    """The devices that torch sees, by their names in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (listed.split(",") if listed else [str(number) for number in range(count)])[:count]


@dataclass(eq=False)
class _WorkerProcess:
    """A process that runs one task after another, in a process group of its own with the children of its tasks.

    It is no ``multiprocessing.Process``: that would import the caller's script again, takes no environment, and leaves
    a process behind that tracks resources.
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
                stdout=2,  # tasks print to stderr
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        return self.process.returncode is not None

    def send(self, message: bytes) -> None:
        """Send the pickled work and task, or an empty message to end the worker."""
        with contextlib.suppress(OSError):  # if it has died, answer() reports it
            self.channel.send_bytes(message)

    def answer(self) -> Any:
        """Return the answer or ``WorkerLost``; raise what the work raised."""
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
        """Tell the worker to stop: by a signal in the middle of a task, or by an empty message."""
        if at_once:
            self._signal(signal.SIGTERM)
        else:
            self.send(b"")

    def end(self) -> int:
        """Wait for the worker, kill what is left of its group, and return its exit status."""
        if not self.has_ended:
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
