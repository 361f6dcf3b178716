"""Tasks for executors, in a module that imports no torch."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class AwkwardError(Exception):
    """Cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def pid(task: Any) -> int:
    return os.getpid()


def environment(task: str) -> str | None:
    return os.environ.get(task)


def threads(task: Any) -> int:
    import torch

    return torch.get_num_threads()


def torch_is_there(task: Any) -> bool:
    return "torch" in sys.modules


def speak(task: str) -> None:
    print("printed", task)
    os.write(1, b"written\n")
    logging.getLogger("forgetkit.tests").warning("careful")


def await_each_other(task: tuple[str, str]) -> str:
    """Wait for one file, if any, then write another."""
    awaited, left = task
    while awaited and not Path(awaited).exists():
        time.sleep(0.01)
    Path(left).touch()
    return left


def die(task: str) -> str:
    if task == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "SIGINT":
        os.kill(os.getpid(), signal.SIGINT)
    if task == "stopped":
        raise KeyboardInterrupt
    if task == "status":
        print("last words")
        os._exit(3)
    if task == "exit":
        sys.exit(4)
    if task == "leaving a child" and os.fork():
        os._exit(5)
    if task == "leaving a child":
        time.sleep(600)
    return task


def fail(task: str) -> Any:
    if task == "awkward":
        raise AwkwardError("to pickle", "")
    if task == "value":
        raise ValueError("out of range")
    return lambda: task


def hang(task: str) -> int:
    """Write the ids of this process and of a child to a folder, and hang; ``""`` returns at once."""
    if task.startswith("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if task:
        child = subprocess.Popen(["sleep", "600"])
        folder = Path(task.removeprefix("stubborn"))
        (folder / f"{os.getpid()}.new").touch()
        (folder / f"{child.pid}.new").touch()
        (folder / f"{os.getpid()}.new").rename(folder / f"{os.getpid()}.pid")
        (folder / f"{child.pid}.new").rename(folder / f"{child.pid}.pid")
        child.wait()
    return os.getpid()


def die_over_a_child(task: str) -> None:
    """Write the id of a child to a folder, and leave the child running."""
    child = subprocess.Popen(["sleep", "600"])
    Path(task, f"{child.pid}.pid").touch()
    os._exit(3)
