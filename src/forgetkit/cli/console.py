"""Standard output, whose reader may leave early: ``forgetkit show | head -1``."""

from __future__ import annotations

import json
import logging
import os
import sys
import unicodedata
from collections.abc import Mapping
from typing import IO, Any, TextIO

from rich import console

_WIDE = 1000
"""Columns of a file or a pipe, which have no end: no table is squeezed there."""


_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that are no text: controls, marks of direction, halves of characters, ends of lines."""


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
    _print(f"{one_line(line)}\n", sys.stderr)


def one_line(text: str) -> str:
    """Text on one line, in which nothing acts on a terminal: a file's name may hold whatever its giver likes."""
    shown = (
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _OBEYED else character
        for character in " ".join(text.split())
    )
    return "".join(shown)


class OneLine(logging.Formatter):
    """Warnings as errors are told."""

    def format(self, record: logging.LogRecord) -> str:
        """What is said, on one line."""
        return f"forgetkit: {one_line(record.getMessage())}"


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
