"""Stopping where nothing is lost: who is asked to stop goes on to the next place from which the rest can be done later.

A scheduler that wants its machine back, a user at a terminal and a session that ends all ask by a signal.
"""

from __future__ import annotations

import contextlib
import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""What terminals and schedulers ask by: Ctrl-C; the end, announced; a terminal that is gone; warnings of a limit."""


class Stopped(KeyboardInterrupt):
    """Asked to stop, and stopped in a place from which all can be gone on with."""


class Halt:
    """Whether it is time to stop.

    While it is heeded, the first :meth:`request` is noted, for :meth:`check` to find, and only a second one stops
    at once, like any interruption; otherwise, where nothing could be lost, each does.
    """

    def __init__(self) -> None:
        self.requested = False
        self._heeded = False

    def request(self) -> None:
        """Stop soon; raises ``KeyboardInterrupt`` where nobody looks for it, or where it was asked before."""
        if self.requested or not self._heeded:
            raise KeyboardInterrupt
        self.requested = True

    def check(self) -> None:
        """Raise :class:`Stopped` here, from where all can be gone on with, if it was asked for."""
        if self.requested:
            raise Stopped

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """While somebody looks for it now and then."""
        self._heeded = True
        try:
            yield
        finally:
            self._heeded = False


@contextmanager
def listening(halt: Halt, noted: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While signals ask ``halt``; ``noted`` is called where one is kept in mind, in the midst of anything.

    One that whoever started this process wants ignored (``nohup``) stays ignored. Only the main thread hears signals:
    elsewhere this does nothing.
    """

    def ask(number: int, frame: types.FrameType | None) -> None:
        halt.request()
        noted()

    with contextlib.ExitStack() as stack:
        for name in SIGNALS:
            number = getattr(signal, name, None)  # not every system has each
            if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
                continue
            with contextlib.suppress(ValueError):  # another thread than the main one
                stack.callback(signal.signal, number, signal.signal(number, ask))
        yield
