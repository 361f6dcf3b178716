"""Commands in child processes forked with torch imported, and the parts of a result that equal runs share."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Before = tuple[str, str, dict[str, Any]]
"""A module's path, the name of a function there, and its arguments by name."""

MEASURED = ("seconds", "peak_memory_bytes", "run", "directory", "sha256")


@dataclass(frozen=True)
class ForkServer:
    """The client of ``fork_server.py``."""

    channel: socket.socket
    answers: Any

    def request(self, request: dict[str, Any], streams: Sequence[int] = ()) -> int:
        """Send a request; returns the answer."""
        socket.send_fds(self.channel, [json.dumps(request).encode()], streams)
        return int(self.answers.readline())

    def start(
        self,
        words: Sequence[Any],
        folder: Path,
        *,
        out: int | None = None,
        err: int | None = None,
        before: Before | None = None,
        **env: str,
    ) -> Child:
        """Fork ``forgetkit WORDS`` in a folder.

        Its output is appended to the files ``stdout`` and ``stderr`` there, or goes to the descriptors ``out`` and
        ``err``. The child calls ``before`` first.
        """
        request = {
            "words": [str(word) for word in words],
            "cwd": str(folder),
            "env": {"FORGETKIT_CACHE": str(folder / "cache"), **env},
            **({} if before is None else {"before": before}),
        }
        with (folder / "stdout").open("ab") as stdout, (folder / "stderr").open("ab") as stderr:
            streams = [stdout.fileno() if out is None else out, stderr.fileno() if err is None else err]
            return Child(self.request(request, streams), self)


@dataclass(eq=False)
class Child:
    """A command in a process of its own."""

    pid: int
    server: ForkServer
    status: int | None = None

    def wait(self) -> int:
        """The exit status once it ends; negative: the signal that killed it."""
        if self.status is None:
            self.status = self.server.request({"wait": self.pid})
        return self.status

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.status is not None or _state(self.pid) == "Z"

    def ended_within(self, seconds: float) -> bool:
        """Whether it ends within this time."""
        until = time.monotonic() + seconds
        while not self.ended:
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        return True

    def signal(self, number: int) -> None:
        """Send it a signal; its process id stays its own until ``wait``."""
        if self.status is None:
            os.kill(self.pid, number)

    def end(self) -> None:
        """Kill it if it still runs."""
        self.signal(signal.SIGKILL)
        self.wait()


class ForkedWorker:
    """A worker of the executor ``local`` that a fork server starts, in place of ``subprocess.Popen``."""

    def __init__(
        self, server: ForkServer, command: Sequence[str], env: dict[str, str], pass_fds: Sequence[int]
    ) -> None:
        (number,) = pass_fds
        request = {"worker": command[2], "env": dict(env), "number": number, "cwd": str(Path.cwd())}
        self._child = Child(server.request(request, [number, 2]), server)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        return self._child.status

    def wait(self, timeout: float = 600.0) -> int:
        if not self._child.ended_within(timeout):
            raise subprocess.TimeoutExpired("worker", timeout)
        return self._child.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def start_fork_server() -> Iterator[ForkServer]:
    """Run a fork server."""
    ours, theirs = socket.socketpair()
    script = Path(__file__).parent / "fork_server.py"
    with subprocess.Popen([sys.executable, script, str(theirs.fileno())], pass_fds=[theirs.fileno()]):
        theirs.close()
        with ours, ours.makefile() as answers:
            yield ForkServer(ours, answers)
            ours.shutdown(socket.SHUT_RDWR)


def substance(result: dict[str, Any]) -> dict[str, Any]:
    """The part of a result that equal runs share: without times, memory, names, their digests, and unused plugins."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(v) for key, v in value.items() if key not in MEASURED}
        return [strip(item) for item in value] if isinstance(value, list) else value

    config = {key: value for key, value in result["config"].items() if key not in ("out", "name")}
    versions = {**result["versions"], "plugins": None}  # another process may have others
    stripped: dict[str, Any] = strip({**result, "config": config, "versions": versions})
    return stripped


def digests(run: Path) -> dict[str, str]:
    """The SHA-256 of each evaluated model's file."""
    files = sorted((run / "checkpoints").glob("mega-batch-*.pt"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
