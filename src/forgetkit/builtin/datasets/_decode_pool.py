"""Decode in this process, or in workers if there are enough images.

Threads do not help: for small images most of the time is spent in Python. A worker is no ``multiprocessing.Process``:
a forked one would inherit the locks of torch's threads, any other would import the caller's script again.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import IO, Self, cast

from PIL import Image

from forgetkit.builtin.datasets._decoding import WORKER_READY, Block, DecodedBlock, decode_block
from forgetkit.errors import DataError

_BYTES_PER_WORKER = 5 << 20
"""Bytes of image files that take about as long to decode as a worker takes to start."""
_MAX_WORKERS = 16
"""More workers wait for the disk, and each holds an interpreter."""
_GRACE = 1.0
"""Seconds for a failed worker to end by itself, so that the message has its own exit status."""

Decoder = Callable[[Iterable[Block]], Iterator[DecodedBlock]]


@contextmanager
def decoder_pool(total_bytes: int) -> Iterator[Decoder]:
    """Give a function that decodes blocks in order; it raises ``DataError`` if a worker dies.

    This process decodes if ``total_bytes`` of image files are too few for workers, or if none can be started.
    """
    count = min(_cores(), total_bytes // _BYTES_PER_WORKER)
    with ExitStack() as stack:
        workers = _start_workers(count, stack) if count > 1 else []
        if not workers:
            yield lambda blocks: map(decode_block, blocks)
            return
        with ThreadPoolExecutor(len(workers)) as threads:
            try:
                yield partial(_decode_in_order, workers, threads)
            finally:
                for worker in workers:
                    worker.kill()


def _start_workers(count: int, stack: ExitStack) -> list[_DecodeWorker]:
    """Start ``count`` workers, or as many as possible."""
    started: list[_DecodeWorker] = []
    with suppress(OSError):  # out of memory or processes: use those that started
        started.extend(stack.enter_context(_DecodeWorker()) for _ in range(count if sys.executable else 0))
    return [worker for worker in started if worker.ready()]


def _decode_in_order(
    workers: Sequence[_DecodeWorker], threads: Executor, blocks: Iterable[Block]
) -> Iterator[DecodedBlock]:
    """Decode each block, a few of them ahead: with a slow disk, results must not fill the memory.

    This thread decodes bad images again, since warning filters belong to all threads.
    """
    idle: SimpleQueue[_DecodeWorker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def decode_in_worker(block: Block) -> DecodedBlock:
        worker = idle.get()
        try:
            return worker.decode(block)
        finally:
            idle.put(worker)

    ahead: deque[tuple[Block, Future[DecodedBlock]]] = deque()

    def first() -> DecodedBlock:
        block, answer = ahead.popleft()
        found = answer.result()
        return decode_block(block, found) if found.bad else found

    for block in blocks:
        ahead.append((block, threads.submit(decode_in_worker, block)))
        if len(ahead) > 2 * len(workers):
            yield first()
    while ahead:
        yield first()


class _DecodeWorker:
    """A process that decodes one block after another and ends with this process."""

    def __init__(self) -> None:
        code = "import sys; sys.path[:] = {}; from forgetkit.builtin.datasets._decoding import work; work()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code.format([str(path) for path in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches this process alone
        )
        self._to, self._from = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def ready(self) -> bool:
        """Wait until it can decode; return False if it ended before."""
        received = b""
        while not received.endswith(WORKER_READY):
            more = self._from.read(1)
            if not more:
                return False
            received = received[-len(WORKER_READY) :] + more
        return True

    def decode(self, block: Block) -> DecodedBlock:
        """Decode a block; raise ``DataError`` if the worker has died."""
        try:
            pickle.dump((block, Image.MAX_IMAGE_PIXELS), self._to)
            self._to.flush()
            answer: DecodedBlock = pickle.load(self._from)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(
                f"a process that decoded images died ({self._end()}) at one of {block.files[0]} to "
                f"{block.files[-1]}: free memory if that ran out, else remove the image"
            ) from error
        return answer

    def _end(self) -> str:
        """The exit status or signal; kill the worker if it is still alive."""
        try:
            status = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.wait()
        return f"exit status {status}" if status >= 0 else f"signal {-status}"

    def kill(self) -> None:
        """Kill the worker at once."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        with suppress(OSError):  # unsent data of a dead worker
            self._to.close()
        self._from.close()
        self._process.wait()


def _cores() -> int:
    """How many cores this process may use, at most ``_MAX_WORKERS``."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(wanted) if wanted.isdecimal() and int(wanted) else here, here, _MAX_WORKERS)
