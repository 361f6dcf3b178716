"""Stopping where nothing is lost: who is asked to stop goes on to the next place from which the rest can be done later.

A scheduler that wants its machine back, a user at a terminal and a session that ends all ask by a signal.
"""

from __future__ import annotations

import contextlib
import signal
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""What terminals and schedulers ask by: Ctrl-C; the end, announced; a terminal that is gone; warnings of a limit."""

_ECHO = 1.0
"""Seconds within which another SIGTERM means the same request."""


class GracefulStop(KeyboardInterrupt):
    """Asked to stop, and stopped in a place from which all can be gone on with."""


class StopRequest:
    """Whether it is time to stop.

    While it is deferred, the first :meth:`request` is noted, for :meth:`check` to find, and only a second one stops
    at once, like any interruption; otherwise, where nothing could be lost, each does.
    """

    def __init__(self) -> None:
        self.requested = False
        self._heeded = False

    def request(self) -> None:
        """Stop soon; raises ``KeyboardInterrupt`` where nobody looks for it, or where it was asked before."""
        at_once = self.requested or not self._heeded
        self.requested = True
        if at_once:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise :class:`GracefulStop` here, from where all can be gone on with, if it was asked for."""
        if self.requested:
            raise GracefulStop

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While somebody looks for it now and then."""
        self._heeded = True
        try:
            yield
        finally:
            self._heeded = False


@contextmanager
def handle_signals(halt: StopRequest, noted: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While signals ask ``halt``; ``noted`` is called where one is kept in mind, in the midst of anything.

    Only a second Ctrl-C, or a SIGTERM that is no echo, asks again: SIGXCPU comes each second, and schedulers tell a
    process and those around it one after the other. A signal that whoever started this process wants ignored
    (``nohup``) stays ignored. Once one was heard, whoever listened is about to leave, and is left to it: all are
    ignored from then on. Only the main thread hears signals: elsewhere this does nothing.
    """
    first = 0.0

    def ask(number: int, frame: types.FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        again = number == signal.SIGINT or (number == signal.SIGTERM and now - first > _ECHO)
        if halt.requested and not again:
            return
        first = first or now
        halt.request()
        noted()

    def put_back(number: int, before: Any) -> None:
        signal.signal(number, signal.SIG_IGN if halt.requested else before)

    with contextlib.ExitStack() as stack:
        for name in SIGNALS:
            number = getattr(signal, name, None)  # not every system has each
            if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
                continue
            with contextlib.suppress(ValueError):  # another thread than the main one
                stack.callback(put_back, number, signal.signal(number, ask))
        yield
