"""Fixtures of all tests: a tiny run, the command line, temporary plugins, child processes."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import subprocesses
from helpers.subprocesses import Child, ForkedWorker, ForkServer

from forgetkit.builtin.executors import local
from forgetkit.cli import main
from forgetkit.registry.entry_points import GROUP
from forgetkit.system.interrupts import SIGNALS

TINY = [
    "run",
    "--dataset",
    "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "--model",
    "mlp:width=8",
    "--epochs",
    "1",
    "--mega-batches",
    "2",
    "--threads",
    "1",
]


@dataclass(frozen=True)
class CommandResult:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restore signal handlers: a command that stops ignores signals, and ``nohup`` ignores one from the start."""
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in SIGNALS)}
    for number, handler in before.items():
        if handler == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty current folder with a cache, without environment variables about terminals.

    In this process, only the plugins that a test installs in this folder are visible.
    """

    def entry_points(**chosen: str) -> Any:
        if chosen.get("group") != GROUP:
            return installed(**chosen)
        return [p for p in installed(**chosen) if Path(str(p.dist.locate_file(""))).is_relative_to(tmp_path)]

    installed = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORGETKIT_CACHE", str(tmp_path / "cache"))
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def forked_workers(request, monkeypatch):
    """Let the executor ``local`` fork its workers: a fresh interpreter imports torch for seconds."""

    def start_worker(command: Sequence[str], **options: Any) -> ForkedWorker:
        server = request.getfixturevalue("fork_server")
        return ForkedWorker(server, command, options["env"], options["pass_fds"])

    monkeypatch.setattr(local, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": start_worker}))


@pytest.fixture
def cli(workdir, capsys, forked_workers):
    """``cli("show", "--json")``: run a command in this process."""

    def call(*words: Any) -> CommandResult:
        capsys.readouterr()
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        return CommandResult(status, printed.out, printed.err)

    return call


@pytest.fixture
def tiny_words():
    """The command line of a run of a few milliseconds."""
    return TINY


@pytest.fixture
def tiny(cli):
    """``tiny("--seed", 1)``: that run with more options."""
    return lambda *words: cli(*TINY, *words)


@pytest.fixture
def plugin(workdir):
    """``plugin("mine", source)``: write a plugin of one file."""

    def write(stem: str, source: str) -> Path:
        path = workdir / f"{stem}.py"
        path.write_text(source)
        return path

    return write


@pytest.fixture
def install(workdir, monkeypatch):
    """``install("my-dist", "entry", source)``: write a distribution with an entry point, as pip does."""
    site = workdir / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)

    def write(distribution: str, entry: str, source: str, version: str = "1.2") -> str:
        module = distribution.replace("-", "_") + "_plugin"
        (site / f"{module}.py").write_text(source)
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[forgetkit]\n{entry} = {module}\n")
        return module

    yield write
    for name in set(sys.modules) - before:
        if name.endswith("_plugin"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    with subprocesses.start_fork_server() as opened:
        yield opened


@pytest.fixture
def start(workdir, fork_server):
    """``start(words, **options)``: a child in this folder; the options are those of ``ForkServer.start``."""
    started = []

    def call(words: Sequence[Any], **options: Any) -> Child:
        started.append(fork_server.start(words, workdir, **options))
        return started[-1]

    yield call
    for child in started:
        child.end()


@pytest.fixture
def terminal(start):
    """``terminal(words)``: run on a terminal of 80 columns; returns the exit status and the output."""

    def call(words: Sequence[Any]) -> tuple[int, str]:
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        child = start(words, out=theirs, err=theirs, TERM="xterm-256color")
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not piece:
                break
            written += piece
        os.close(ours)
        return child.wait(), written.decode().replace("\r\n", "\n")

    return call


@pytest.fixture
def spawn(workdir):
    """``spawn("show")``: run ``python -m forgetkit`` in a fresh interpreter; takes seconds."""

    def call(*words: Any, **env: str) -> CommandResult:
        done = subprocess.run(
            [sys.executable, "-m", "forgetkit", *map(str, words)],
            capture_output=True,
            text=True,
            env={**os.environ, **env},
            check=False,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def substance():
    """``substance(result)``: the part of a result that equal runs share."""
    return subprocesses.substance


@pytest.fixture
def digests():
    """``digests(run)``: the SHA-256 of each model file."""
    return subprocesses.digests


@pytest.fixture
def result_of():
    """``result_of(run)``: the content of ``result.json``."""
    return lambda run: json.loads((run / "result.json").read_text())
