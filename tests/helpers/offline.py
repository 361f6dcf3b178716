"""Blocks look-ups and connections outside this machine, and logs the attempts."""

from __future__ import annotations

import socket
from pathlib import Path


def forbid(log: str) -> None:
    """Block from now on; each attempt adds a line to the file ``log``."""

    def tried(what: str, where: object) -> OSError:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{what} {where}\n")
        return OSError(101, "no network in this test")

    connect = socket.socket.connect

    def to(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise tried("connect", address)
        connect(self, address)  # type: ignore[arg-type]

    def look_up(host: object, *_: object, **__: object) -> None:
        raise tried("look up", host)

    socket.socket.connect = to  # type: ignore[assignment, method-assign]
    socket.socket.connect_ex = to  # type: ignore[assignment, method-assign]
    socket.getaddrinfo = look_up  # type: ignore[assignment]
    socket.gethostbyname = look_up  # type: ignore[assignment]
