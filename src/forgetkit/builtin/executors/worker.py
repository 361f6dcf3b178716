"""The main function of a worker process of ``local``: run one task after another."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

_STOPPED = 130


def main(descriptor: int) -> None:
    """Run tasks from a connection and send the answers back until an empty message; die with the parent."""
    os.set_inheritable(descriptor, False)
    channel = Connection(descriptor)
    os.register_at_fork(after_in_child=channel.close)  # else the parent would not see this process end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    sys.stdout = sys.stderr
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="forgetkit: %(message)s")
    messages: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(channel, messages), daemon=True).start()
    while message := messages.get():
        try:
            channel.send_bytes(_answer(message))
        except KeyboardInterrupt:  # a task raises it on SIGTERM
            sys.exit(_STOPPED)


def _listen(channel: Connection, messages: SimpleQueue[bytes]) -> None:
    """Receive messages in a thread of its own, which notices the end of the parent during a task."""
    try:
        while True:
            messages.put(channel.recv_bytes())
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _answer(message: bytes) -> bytes:
    """Run a task; return the pickled pair of answer and None, or of None and the error."""
    try:
        work, task = pickle.loads(message)
        return pickle.dumps((work(task), None))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return _pickle_error(error)


def _pickle_error(error: Exception) -> bytes:
    try:
        message = pickle.dumps((None, error))
        pickle.loads(message)  # some exceptions can be pickled but not unpickled
        return message
    except Exception:  # noqa: BLE001 - __reduce__ may raise anything
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
