"""Graceful stops: a process that is asked to stop continues to the next point from which it can be resumed.

Users at a terminal, schedulers and sessions that end all ask by a signal.
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
"""The signals of terminals and schedulers: Ctrl-C, termination, a closed terminal, warnings of a limit."""

_ECHO = 1.0
"""Seconds within which another SIGTERM means the same request."""


class GracefulStop(KeyboardInterrupt):
    """The process was asked to stop, and stopped at a point from which it can be resumed."""


class StopRequest:
    """Whether the process is asked to stop.

    While stops are deferred, the first :meth:`request` waits for :meth:`check`, and a second one stops at once.
    Otherwise each request stops at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._is_deferred = False

    def request(self) -> None:
        """Ask to stop; raises ``KeyboardInterrupt`` unless stops are deferred and this is the first request."""
        at_once = self.requested or not self._is_deferred
        self.requested = True
        if at_once:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise :class:`GracefulStop` if a stop was requested."""
        if self.requested:
            raise GracefulStop

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer stops until :meth:`check` is called."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False


@contextmanager
def handle_signals(stop: StopRequest, on_deferred: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn signals into requests of ``stop``; ``on_deferred`` is called, at any moment, if a request is deferred.

    Only a second Ctrl-C, or a SIGTERM more than a second later, asks again: SIGXCPU comes each second, and schedulers
    signal a process and those around it one after the other. A signal that is ignored already (``nohup``) stays
    ignored. After a request all signals are ignored on leaving, since the process is about to end. Only the main
    thread receives signals: in another one this does nothing.
    """
    first = 0.0

    def ask(number: int, frame: types.FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        again = number == signal.SIGINT or (number == signal.SIGTERM and now - first > _ECHO)
        if stop.requested and not again:
            return
        first = first or now
        stop.request()
        on_deferred()

    def restore(number: int, before: Any) -> None:
        signal.signal(number, signal.SIG_IGN if stop.requested else before)

    with contextlib.ExitStack() as stack:
        for name in SIGNALS:
            number = getattr(signal, name, None)  # not every system has each
            if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
                continue
            with contextlib.suppress(ValueError):  # another thread than the main one
                stack.callback(restore, number, signal.signal(number, ask))
        yield
