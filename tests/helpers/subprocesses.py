"""Real child processes, forked where torch is imported already, and what two runs that are the same have in common."""

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

MEASURED = ("seconds", "peak_memory_bytes", "run", "directory", "sha256")


@dataclass(frozen=True)
class Nursery:
    """The process that children are forked from."""

    channel: socket.socket
    answers: Any

    def ask(self, request: dict[str, Any], streams: Sequence[int] = ()) -> int:
        """The answer to a request."""
        socket.send_fds(self.channel, [json.dumps(request).encode()], streams)
        return int(self.answers.readline())


@dataclass(eq=False)
class Child:
    """A command in a process of its own."""

    pid: int
    nursery: Nursery
    status: int | None = None

    def wait(self) -> int:
        """Its exit status; negative: the signal that killed it."""
        if self.status is None:
            self.status = self.nursery.ask({"wait": self.pid})
        return self.status

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self.status is not None or _state(self.pid) == "Z"

    def ended_within(self, seconds: float) -> bool:
        """Whether it does not run for so long any more."""
        until = time.monotonic() + seconds
        while not self.ended:
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        return True

    def signal(self, number: int) -> None:
        """Send it a signal, dead or alive: nobody else has its number before it is waited for."""
        if self.status is None:
            os.kill(self.pid, number)

    def end(self) -> None:
        """Kill it where it still runs."""
        self.signal(signal.SIGKILL)
        self.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def open_nursery() -> Iterator[Nursery]:
    """While there is a process to fork children from."""
    ours, theirs = socket.socketpair()
    script = Path(__file__).parent / "fork_server.py"
    with subprocess.Popen([sys.executable, script, str(theirs.fileno())], pass_fds=[theirs.fileno()]):
        theirs.close()
        with ours, ours.makefile() as answers:
            yield Nursery(ours, answers)
            ours.shutdown(socket.SHUT_RDWR)


def substance(result: dict[str, Any]) -> dict[str, Any]:
    """What two equal runs have in common: all but times, memory, names, the digest of those, and unused plugins."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(v) for key, v in value.items() if key not in MEASURED}
        return [strip(item) for item in value] if isinstance(value, list) else value

    config = {key: value for key, value in result["config"].items() if key not in ("out", "name")}
    versions = {**result["versions"], "plugins": None}  # another process may see others
    stripped: dict[str, Any] = strip({**result, "config": config, "versions": versions})
    return stripped


def digests(run: Path) -> dict[str, str]:
    """The SHA-256 of each evaluated model's file."""
    files = sorted((run / "checkpoints").glob("mega-batch-*.pt"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
