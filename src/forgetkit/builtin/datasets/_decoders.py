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

from forgetkit.builtin.datasets._decoding import Block, Pixels, decode_block, reason_of
from forgetkit.errors import DataError

_WORTH = 5 << 20
"""Bytes of image files that take about as long to decode as a worker takes to start."""

Decoder = Callable[[Iterable[Block]], Iterator[Pixels]]


@contextmanager
def decoders(bytes_in_all: int) -> Iterator[Decoder]:
    """Whatever gives the pixels of blocks, in their order, for image files of so many bytes in all.

    It raises ``DataError`` as :func:`decode_block` does, or where a worker cannot be started or has died.
    """
    count = min(_cores(), bytes_in_all // _WORTH)
    if count < 2:
        yield lambda blocks: map(decode_block, blocks)
        return
    with ExitStack() as crew:
        workers = [crew.enter_context(_Worker()) for _ in range(count)]
        with ThreadPoolExecutor(count) as threads:
            try:
                yield partial(_in_order, workers, threads)
            finally:
                for worker in workers:
                    worker.kill()


def _in_order(workers: Sequence[_Worker], threads: Executor, blocks: Iterable[Block]) -> Iterator[Pixels]:
    """The pixels of each block, a few of which are decoded ahead; a slow disk must not fill the memory."""
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def decoded(block: Block) -> Pixels:
        worker = idle.get()
        try:
            return worker.decoded(block)
        finally:
            idle.put(worker)

    ahead: deque[Future[Pixels]] = deque()
    for block in blocks:
        ahead.append(threads.submit(decoded, block))
        if len(ahead) > 2 * len(workers):
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


class _Worker:
    """A process that decodes one block after another. It leaves when this process does, whatever ends it."""

    def __init__(self) -> None:
        code = "import sys; sys.path[:] = {}; from forgetkit.builtin.datasets._decoding import work; work()"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code.format([str(path) for path in sys.path])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for this process to act on
            )
        except OSError as error:
            raise DataError(f"no process can be started to decode images ({reason_of(error)}): free memory") from error
        self._to, self._from = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def decoded(self, block: Block) -> Pixels:
        """The pixels of a block; ``DataError`` where this process cannot decode it either, or the worker has died."""
        try:
            pickle.dump((block, Image.MAX_IMAGE_PIXELS), self._to)
            self._to.flush()
            pixels: Pixels | None = pickle.load(self._from)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(
                f"a process that decoded images died ({_end(self._process.wait())}) at one of {block.files[0]} to "
                f"{block.files[-1]}: free memory if that ran out, else remove the image"
            ) from error
        return decode_block(block) if pixels is None else pixels

    def kill(self) -> None:
        """Whatever it is at."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # what it was still to be told, if it died
            self._to.close()
        self._from.close()
        self._process.wait()


def _end(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {-status}"


def _cores() -> int:
    """How many this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
