"""Standard output, whose reader may leave early: ``forgetkit show | head -1``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import IO, Any, TextIO

from rich import console

_WIDE = 1000
"""Columns of a file or a pipe, which have no end: no table is squeezed there."""


class Console(console.Console):
    """Falls silent when its reader leaves, and lets the program finish what it does."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream.isatty() else _WIDE
        super().__init__(stderr=stderr, highlight=False, soft_wrap=width is not None, width=width)

    def on_broken_pipe(self) -> None:
        """Say no more."""
        self.quiet = True
        silence(self.file)


def print_json(content: Mapping[str, Any]) -> None:
    """One object on standard output."""
    print_text(json.dumps(content) + "\n")


def print_text(text: str) -> None:
    """Text as it is, to its own end, on standard output."""
    _print(text, sys.stdout)


def print_error(line: str) -> None:
    """A line on standard error."""
    _print(f"{line}\n", sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    try:
        print(text, end="", file=stream, flush=True)
    except BrokenPipeError:
        silence(stream)


def silence(stream: IO[str]) -> None:
    """Let what is still to come go nowhere: else the interpreter complains when it flushes at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
