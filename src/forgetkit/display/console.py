"""Printing of text from any origin, without control characters that a terminal obeys."""

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
"""Columns of a file or a pipe, so that no table is squeezed there."""

_CONTROL_CHARS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that are no text: controls, direction marks, surrogates, ends of lines."""


class Console(console.Console):
    """A rich console without markup, which prints no control characters from names, paths and messages."""

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
        """Render as rich does, and replace control characters that are not rich's own."""
        for segment in super().render(renderable, options):
            inert = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if inert else Segment(_escape_control_chars(segment.text, "\ufffd"), segment.style)

    @property
    def moves(self) -> bool:
        """Whether bars can move: on a terminal that obeys, not in a pipe with forced colours."""
        return self.file.isatty() and self.is_interactive

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence. A terminal cuts no word, so that a long one can be copied whole."""
        folded = text if self.soft_wrap else layout.fold_text(text, self.width)
        self.print(Text(folded, style), soft_wrap=True)


def print_json(content: Mapping[str, Any]) -> None:
    """Print an object on standard output."""
    print_text(json.dumps(content) + "\n")


def print_text(text: str) -> None:
    """Print text on standard output: unchanged in a file or a pipe, without control characters on a terminal."""
    _print(_escape_control_chars(text) if sys.stdout.isatty() else text, sys.stdout)


def print_error(line: str) -> None:
    """Print a line on standard error."""
    _print(f"{one_line(line)}\n", sys.stderr)


def one_line(text: str) -> str:
    """Return text on one line without control characters, which the name of a file may hold."""
    return _escape_control_chars(" ".join(text.split()))


def _escape_control_chars(text: str, instead: str = "") -> str:
    """Replace each control character by ``instead``, or by its escape sequence."""
    return "".join(
        instead or letter.encode("unicode_escape").decode()
        if letter not in "\n\t" and unicodedata.category(letter) in _CONTROL_CHARS
        else letter
        for letter in text
    )


def _print(text: str, stream: TextIO) -> None:
    print(text, end="", file=stream, flush=True)


def say_at_once(line: str) -> None:
    """Write a line on standard error without buffers and locks, which the interrupted code may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
