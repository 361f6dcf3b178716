# ruff: noqa: PTH109, PTH110, PTH115, PTH118, PTH120 - pathlib calls the functions that this module replaces

"""Breaks the file system calls of the process that imports it, which a test has just forked.

It counts the calls that change something below a folder: opening to write, writing, syncing, renaming, removing, making
folders. At the n-th, a fault occurs: the process is killed, the call fails, half of a write is done, the power fails.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ONE_PATH = ("unlink", "remove", "rmdir", "mkdir", "truncate")
_TWO_PATHS = ("rename", "replace", "link", "symlink")
_AUDITED = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
_FREEING = ("unlink", "remove", "rmdir", "truncate", "close")
_KEPT = {
    name: getattr(os, name)
    for name in (*_ONE_PATH, *_TWO_PATHS, "open", "write", "fsync", "fdatasync", "ftruncate", "_exit")
}


def calls(
    root: str,
    *,
    log: str | None = None,
    at: int | None = None,
    fault: str = "kill",
    number: int = 0,
    lasting: bool = False,
    seed: int = 0,
) -> None:
    """Count the calls below ``root``, log them in a file, and inject a ``fault`` at number ``at``, from 1.

    kill     die before the call
    tear     die during the call: half of a write is done
    fail     the call raises the ``OSError`` of ``number``; ``lasting``: all later calls too (with ENOSPC and EDQUOT,
             calls that free space succeed)
    short    half of a write is done, and the call returns that
    signal   the process sends itself the signal ``number`` before the call
    power    unsynced data may be lost, drawn by ``seed``; then die. If ``at`` is None: after the command
    """
    Breaking(root, log, at, fault, number, lasting, random.Random(seed)).install()


def clock(seed: int) -> None:
    """Make the time of day jump back and forth, by days."""
    draw, real = random.Random(seed), time.time
    time.time = lambda: real() + draw.uniform(-1e6, 1e6)
    time.time_ns = lambda: int(time.time() * 1e9)


def ignored(number: int) -> None:
    """Ignore a signal, as ``nohup`` does."""
    signal.signal(number, signal.SIG_IGN)


@dataclass(eq=False)
class Breaking:
    """The calls so far, and the fault to inject."""

    root: str
    log: str | None
    at: int | None
    fault: str
    number: int
    lasting: bool
    draw: random.Random
    count: int = 0
    announced: bool = False
    disk: Disk | None = None

    def install(self) -> None:
        self.root = os.path.realpath(self.root)
        self.log = None if self.log is None else os.path.realpath(self.log)
        if self.fault == "power":
            self.disk = Disk(self.root)
        for name in _ONE_PATH:
            setattr(os, name, self._on_one_path(name))
        for name in _TWO_PATHS:
            setattr(os, name, self._on_two_paths(name))
        os.open, os.write, os.ftruncate = self._open, self._write, self._ftruncate
        os.fsync = self._sync
        os.fdatasync = self._sync
        os._exit = self._exit
        builtins.open = io.open = opener(self)
        sys.addaudithook(self._audit)

    def below(self, path: Any, folder: int | None = None) -> str | None:
        """The absolute path if it is the root or below it; only links in the root are resolved."""
        if isinstance(path, int):
            found = os.readlink(f"/proc/self/fd/{path}").removesuffix(" (deleted)")
        else:
            start = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
            found = os.path.normpath(os.path.join(start, os.fsdecode(path)))
        return found if found == self.root or found.startswith(self.root + "/") else None

    @contextmanager
    def call(self, kind: str, path: str | None, data: Any = None) -> Iterator[Any]:
        """Surround a call; yields the part of ``data`` to write. A call within another call does not count."""
        if path is None or self.announced:
            yield data
            return
        self.count += 1
        number = self.count
        self._note(f"{number} {kind} {os.path.relpath(path, self.root)}")
        if number == self.at:
            data = self._do(kind, path, data)
        elif self.fault == "fail" and self.lasting and self.at is not None and number > self.at:
            self._fail(kind, path)
        self.announced = True
        try:
            yield data
        finally:
            self.announced = False
        if number == self.at and self.fault == "tear":
            die()

    def _do(self, kind: str, path: str, data: Any) -> Any:
        half = None if data is None else data[: (len(data) + 1) // 2]
        match self.fault:
            case "kill":
                die()
            case "tear":
                return half if half is not None else die()
            case "short":
                return half
            case "fail":
                self._fail(kind, path)
            case "signal":
                os.kill(os.getpid(), self.number)
            case "power":
                assert self.disk is not None
                self.disk.lose(self.draw)
                die()
        return data

    def _fail(self, kind: str, path: str) -> None:
        if self.number in (errno.ENOSPC, errno.EDQUOT) and kind in _FREEING:
            return
        raise OSError(self.number, os.strerror(self.number), path)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Log calls that Python audits and this module did not count: they would weaken the test."""
        if self.announced or self.log is None:
            return
        if (event == "open" and arguments[2] & _WRITING) or event in _AUDITED:
            path = self.below(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else None
            if path is not None:
                self._note(f"uncounted {event} {path}")

    def _note(self, line: str) -> None:
        """Append to the log, opened for each line: a worker closes inherited files."""
        if self.log is None:
            return
        number = _KEPT["open"](self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        _KEPT["write"](number, line.encode() + b"\n")
        os.close(number)

    def _on_one_path(self, name: str) -> Callable[..., Any]:
        def called(path: Any, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> Any:
            if dir_fd is not None:
                kwargs["dir_fd"] = dir_fd
            full = self.below(path, dir_fd)
            with self.call(name, full):
                if self.disk is not None and full is not None:
                    self.disk.capture(full)
                answer = _KEPT[name](path, *args, **kwargs)
                if self.disk is not None and full is not None:
                    self.disk.changed(name, full)
                return answer

        return called

    def _on_two_paths(self, name: str) -> Callable[..., Any]:
        def called(source: Any, target: Any, **kwargs: Any) -> Any:
            full = self.below(target, kwargs.get("dst_dir_fd"))
            with self.call(name, full):
                if self.disk is not None and full is not None:
                    self.disk.capture(full)
                answer = _KEPT[name](source, target, **kwargs)
                if self.disk is not None and full is not None:
                    self.disk.moved(self.below(source), full)
                return answer

        return called

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        full = self.below(path, dir_fd) if flags & _WRITING else None
        with self.call("open", full):
            number: int = _KEPT["open"](path, flags, mode, dir_fd=dir_fd)
        self.opened(full)
        return number

    def opened(self, path: str | None) -> None:
        if self.disk is not None and path is not None:
            self.disk.opened(path)

    def _write(self, number: int, data: Any) -> int:
        with self.call("write", self.below(number), data) as part:
            written: int = _KEPT["write"](number, part)
        return written

    def _ftruncate(self, number: int, length: int) -> None:
        with self.call("ftruncate", self.below(number)):
            _KEPT["ftruncate"](number, length)

    def _sync(self, file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        path = self.below(number)
        with self.call("fsync", path):
            _KEPT["fsync"](number)
            if self.disk is not None and path is not None:
                self.disk.synced(path)

    def _exit(self, status: int) -> None:
        if self.disk is not None and self.at is None:
            self.disk.lose(self.draw)
        _KEPT["_exit"](status)


def die() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def opener(breaking: Breaking) -> Callable[..., Any]:
    """``open`` for files whose writes are counted, in a Python method below the buffer."""
    real = io.open

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:  # type: ignore[override]
            with breaking.call("write", breaking.below(self.fileno()), bytes(data)) as part:
                return super().write(part)

    def counted(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        path = breaking.below(file) if set(mode) & set("wax+") else None
        if path is None:
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        with breaking.call("open", path):
            raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        breaking.opened(path)
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    return counted


@dataclass(eq=False)
class Inode:
    """A file or folder under any number of names; of a file, its content when last synced and when last captured."""

    folder: bool = False
    synced: bytes = b""
    live: bytes = b""


@dataclass(eq=False)
class Disk:
    """The files below a folder, and what a loss of power leaves of them.

    A file's content survives if the file was synced, a name if its folder was synced. The rest may be lost: content
    completely, from some byte on, or replaced by zeros; changes of names all, from some change on, or any of them.
    """

    root: str
    names: dict[str, Inode] = field(default_factory=dict)
    kept: dict[str, Inode] = field(default_factory=dict)
    pending: list[tuple[str, dict[str, Inode | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in (Path(self.root), *Path(self.root).rglob("*")):
            if path.exists():
                content = b"" if path.is_dir() else path.read_bytes()
                self.names[str(path)] = Inode(path.is_dir(), content, content)
        self.kept = dict(self.names)

    def _change(self, changes: dict[str, Inode | None]) -> None:
        self.pending.append((os.path.dirname(next(iter(changes))), changes))
        for path, inode in changes.items():
            if inode is None:
                self.names.pop(path, None)
            else:
                self.names[path] = inode

    def capture(self, path: str) -> None:
        """Read the file before its name changes."""
        inode = self.names.get(path)
        if inode is not None and not inode.folder and os.path.exists(path):
            number = _KEPT["open"](path, os.O_RDONLY)
            try:
                inode.live = b"".join(iter(lambda: os.read(number, 1 << 20), b""))
            finally:
                os.close(number)

    def opened(self, path: str) -> None:
        if path not in self.names:
            self._change({path: Inode()})

    def changed(self, name: str, path: str) -> None:
        if name == "mkdir":
            self._change({path: Inode(folder=True)})
        elif name != "truncate":
            self._change({path: None})

    def moved(self, source: str | None, target: str) -> None:
        inode = self.names[source] if source in self.names else Inode()
        self._change({target: inode, **({} if source is None else {source: None})})

    def synced(self, path: str) -> None:
        inode = self.names.get(path)
        if inode is None:
            return
        if not inode.folder:
            self.capture(path)
            inode.synced = inode.live
            return
        for folder, changes in self.pending:
            if folder == path:
                self._keep(changes)
        self.pending = [(folder, changes) for folder, changes in self.pending if folder != path]

    def _keep(self, changes: dict[str, Inode | None]) -> None:
        for path, inode in changes.items():
            if inode is None:
                self.kept.pop(path, None)
            else:
                self.kept[path] = inode

    def lose(self, draw: random.Random) -> None:
        """Replace the folder's content by what a loss of power leaves."""
        for path in self.names:
            self.capture(path)
        lost = draw.choice(("all", "the last", "any"))
        upto = draw.randint(0, len(self.pending))
        for index, (_, changes) in enumerate(self.pending):
            if (lost == "the last" and index < upto) or (lost == "any" and draw.random() < 0.5):
                self._keep(changes)
        for name, function in _KEPT.items():
            setattr(os, name, function)
        content = {id(inode): self._left(inode, draw) for inode in self.kept.values()}
        shutil.rmtree(self.root, ignore_errors=True)
        folders = {path for path, inode in self.kept.items() if inode.folder}
        for path in sorted(self.kept):
            inode = self.kept[path]
            above = set(itertools.takewhile(lambda p: len(p) >= len(self.root), map(str, Path(path).parents)))
            if not above <= folders:
                continue
            if inode.folder:
                Path(path).mkdir()
            else:
                number = os.open(path, os.O_WRONLY | os.O_CREAT)
                os.write(number, content[id(inode)])
                os.close(number)

    @staticmethod
    def _left(inode: Inode, draw: random.Random) -> bytes:
        if inode.folder or inode.live == inode.synced:
            return inode.synced
        cut = draw.randint(0, len(inode.live))
        if inode.live.startswith(inode.synced):  # what was appended to is not overwritten
            cut = max(cut, len(inode.synced))
            zeros = inode.synced + bytes(len(inode.live) - len(inode.synced))
        else:
            zeros = bytes(len(inode.live))
        return draw.choice((inode.synced, inode.live[:cut], zeros, inode.live))
