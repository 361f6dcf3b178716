"""Who decodes: this process, or as many workers as the images are worth.

Threads do not pay: for small images most of the time is spent in Python. A worker is no ``multiprocessing.Process``:
one that is forked would inherit the locks of torch's threads, any other would import the caller's script again.
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

_WORTH = 5 << 20
"""Bytes of image files that take about as long to decode as a worker takes to start."""
_MOST = 16
"""Workers: more of them wait for the disk, and each holds an interpreter."""
_GRACE = 1.0
"""Seconds for a worker that answers no more to end by itself, so that its own status is told."""

Decoder = Callable[[Iterable[Block]], Iterator[DecodedBlock]]


@contextmanager
def decoder_pool(bytes_in_all: int) -> Iterator[Decoder]:
    """Whatever gives the images of blocks, in their order, for image files of so many bytes in all.

    This process decodes where workers would not pay, or none can be started. What is given raises ``DataError`` if a
    worker has died.
    """
    count = min(_cores(), bytes_in_all // _WORTH)
    with ExitStack() as crew:
        workers = _start_workers(count, crew) if count > 1 else []
        if not workers:
            yield lambda blocks: map(decode_block, blocks)
            return
        with ThreadPoolExecutor(len(workers)) as threads:
            try:
                yield partial(_decode_in_order, workers, threads)
            finally:
                for worker in workers:
                    worker.kill()


def _start_workers(count: int, crew: ExitStack) -> list[_DecodeWorker]:
    """So many workers, or as many as could be started."""
    started: list[_DecodeWorker] = []
    with suppress(OSError):  # the memory or the processes have run out: those that are there do it
        started.extend(crew.enter_context(_DecodeWorker()) for _ in range(count if sys.executable else 0))
    return [worker for worker in started if worker.ready()]


def _decode_in_order(
    workers: Sequence[_DecodeWorker], threads: Executor, blocks: Iterable[Block]
) -> Iterator[DecodedBlock]:
    """The images of each block, a few of which are decoded ahead; a slow disk must not fill the memory.

    What the workers cannot decode this process tries again in this thread, since filters for warnings are for all
    threads.
    """
    idle: SimpleQueue[_DecodeWorker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def decoded(block: Block) -> DecodedBlock:
        worker = idle.get()
        try:
            return worker.decoded(block)
        finally:
            idle.put(worker)

    ahead: deque[tuple[Block, Future[DecodedBlock]]] = deque()

    def first() -> DecodedBlock:
        block, answer = ahead.popleft()
        found = answer.result()
        return decode_block(block, found) if found.bad else found

    for block in blocks:
        ahead.append((block, threads.submit(decoded, block)))
        if len(ahead) > 2 * len(workers):
            yield first()
    while ahead:
        yield first()


class _DecodeWorker:
    """A process that decodes one block after another. It leaves when this process does, whatever ends it."""

    def __init__(self) -> None:
        code = "import sys; sys.path[:] = {}; from forgetkit.builtin.datasets._decoding import work; work()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code.format([str(path) for path in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process to act on
        )
        self._to, self._from = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def ready(self) -> bool:
        """Wait until it can decode; False where it ended before. What else was printed meanwhile is passed over."""
        said = b""
        while not said.endswith(WORKER_READY):
            more = self._from.read(1)
            if not more:
                return False
            said = said[-len(WORKER_READY) :] + more
        return True

    def decoded(self, block: Block) -> DecodedBlock:
        """The images of a block; ``DataError`` if it has died."""
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
        """How it ended; it is made to where it lives on, which would be waited for in vain."""
        try:
            status = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.wait()
        return f"exit status {status}" if status >= 0 else f"signal {-status}"

    def kill(self) -> None:
        """Whatever it is at."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        with suppress(OSError):  # what it was still to be told, if it died
            self._to.close()
        self._from.close()
        self._process.wait()


def _cores() -> int:
    """How many this process may use, and not more than are of use."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(asked) if asked.isdecimal() and int(asked) else here, here, _MOST)
