"""What a worker process of ``local`` does: one task after another, as they are handed to it."""

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

_ASKED_TO_LEAVE = 130


def main(descriptor: int) -> None:
    """Do tasks from a connection and send the answers back, until an empty message comes; without its parent, die."""
    os.set_inheritable(descriptor, False)
    channel = Connection(descriptor)
    os.register_at_fork(after_in_child=channel.close)  # or the end of this process would not be seen at the other end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever waits for the answers decides
    sys.stdout = sys.stderr
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="forgetkit: %(message)s")
    messages: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(channel, messages), daemon=True).start()
    while message := messages.get():
        try:
            channel.send_bytes(_answer(message))
        except KeyboardInterrupt:  # as a task takes a signal that asks it to leave
            sys.exit(_ASKED_TO_LEAVE)


def _listen(channel: Connection, messages: SimpleQueue[bytes]) -> None:
    """In a thread of its own, so that the end of the parent is heard in the midst of a task."""
    try:
        while True:
            messages.put(channel.recv_bytes())
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _answer(message: bytes) -> bytes:
    """The pickled pair of an answer and None, or of None and what was raised."""
    try:
        work, task = pickle.loads(message)
        return pickle.dumps((work(task), None))
    except Exception as error:  # noqa: BLE001 - it is raised where the answer was waited for
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return _pickle_error(error)


def _pickle_error(error: Exception) -> bytes:
    try:
        message = pickle.dumps((None, error))
        pickle.loads(message)  # many an exception can be pickled and then not be made again
        return message
    except Exception:  # noqa: BLE001 - a stranger's __reduce__ may raise anything
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
