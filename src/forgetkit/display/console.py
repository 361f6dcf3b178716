"""What prints: text of any origin, on which no terminal acts."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich import console
from rich.segment import Segment
from rich.text import Text

from forgetkit.display import layout

_WIDE = 1000
"""Columns of a file or a pipe, which have no end: no table is squeezed there."""

_CONTROL_CHARS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that are no text: controls, marks of direction, halves of characters, ends of lines."""


class Console(console.Console):
    """Falls silent when its reader leaves, and lets the program finish what it does.

    What names, paths and messages hold is text: it is no markup, and acts on no terminal.
    """

    def __init__(self, *, stderr: bool = False, **settings: Any) -> None:
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream.isatty() else _WIDE
        usual: dict[str, Any] = {
            "stderr": stderr,
            "markup": False,
            "emoji": False,
            "highlight": False,
            "soft_wrap": width is not None,
            "width": width,
            "color_system": None if width is not None and os.environ.get("NO_COLOR") else "auto",
        }
        super().__init__(**usual | settings)

    def render(
        self, renderable: console.RenderableType, options: console.ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """The same pieces; in those that are no commands of rich's own, nothing that a terminal would obey."""
        for segment in super().render(renderable, options):
            inert = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if inert else Segment(_escape_control_chars(segment.text, "\ufffd"), segment.style)

    @property
    def moves(self) -> bool:
        """Whether bars may move on it: on a terminal that obeys, not where a pipe is merely given colours."""
        return self.file.isatty() and self.is_interactive

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence. On a terminal no word is cut; one that is longer than a line can be copied whole."""
        whole = text if self.soft_wrap else layout.fold_text(text, self.width)
        self.print(Text(whole, style), soft_wrap=True)


def print_json(content: Mapping[str, Any]) -> None:
    """One object on standard output."""
    print_text(json.dumps(content) + "\n")


def print_text(text: str) -> None:
    """Text to its own end on standard output: as it is in a file or a pipe, without commands on a terminal."""
    _print(_escape_control_chars(text) if sys.stdout.isatty() else text, sys.stdout)


def print_error(line: str) -> None:
    """A line on standard error."""
    _print(f"{one_line(line)}\n", sys.stderr)


def one_line(text: str) -> str:
    """Text on one line, in which nothing acts on a terminal: a file's name may hold whatever its giver likes."""
    return _escape_control_chars(" ".join(text.split()))


def _escape_control_chars(text: str, instead: str = "") -> str:
    """Lines in which another character stands for each that acts on a terminal, or its name."""
    return "".join(
        instead or letter.encode("unicode_escape").decode()
        if letter not in "\n\t" and unicodedata.category(letter) in _CONTROL_CHARS
        else letter
        for letter in text
    )


def _print(text: str, stream: TextIO) -> None:
    print(text, end="", file=stream, flush=True)


def say_at_once(line: str) -> None:
    """A line on standard error past all buffers and locks, which whatever a signal interrupts may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
