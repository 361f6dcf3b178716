"""Where progress is shown: nowhere, in lines, or in bars that move on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from rich.console import RenderableType
from rich.live import Live

from forgetkit.display import console
from forgetkit.display.run_tables import duration


def choose_display(*, quiet: bool, as_json: bool, warning_style: str | None = None) -> Display:
    """Choose a silent, live or plain display; with ``--json`` standard output belongs to the object alone.

    Args:
        quiet: Whether warnings alone are shown.
        as_json: Whether the display writes to standard error.
        warning_style: How a live display prints warnings above its bars; None leaves them to standard error.
    """
    out = console.Console(stderr=as_json)
    if quiet:
        return Display(out)
    return LiveDisplay(out, warning_style) if out.moves else PlainDisplay(out)


class Display:
    """Shows warnings alone."""

    shows = False
    """Whether results are shown."""
    note = ""
    """A sentence below the bars."""

    def __init__(self, out: console.Console) -> None:
        self.console = out

    def say(self, text: str) -> None:
        """Print a line that is no warning."""

    def log(self, text: str, after: float = 0.0) -> None:
        """Print a line that bars make needless, if the last line was printed at least ``after`` seconds ago."""

    def warn(self, message: str) -> None:
        """Print a line on standard error."""
        console.print_error(f"forgetkit: {message}")

    def say_at_once(self, line: str) -> None:
        """Print a line from a signal handler, in the midst of anything."""

    def format_left(self, seconds: float | None) -> str:
        """What a line adds about the time left; nothing if it is None, or if bars show it."""
        return ""

    def follow(self, bars: Callable[[], RenderableType], per_second: int = 8) -> AbstractContextManager[object]:
        """Keep ``bars`` on the screen, where they can move."""
        return nullcontext()


class PlainDisplay(Display):
    """Prints lines."""

    shows = True

    def __init__(self, out: console.Console) -> None:
        super().__init__(out)
        self._spoke = time.monotonic()

    def say(self, text: str) -> None:
        """Print it."""
        self.console.say(text)
        self._spoke = time.monotonic()

    def log(self, text: str, after: float = 0.0) -> None:
        """Print it."""
        if time.monotonic() - self._spoke >= after:
            self.say(text)

    def say_at_once(self, line: str) -> None:
        """Print it past all buffers."""
        console.say_at_once(line)

    def format_left(self, seconds: float | None) -> str:
        """After a comma."""
        return "" if seconds is None else f", about {duration(seconds)} left"


class LiveDisplay(PlainDisplay):
    """Moves bars; lines go above them."""

    def __init__(self, out: console.Console, warning_style: str | None = None) -> None:
        super().__init__(out)
        self._warning_style = warning_style

    def log(self, text: str, after: float = 0.0) -> None:
        """Leave it to the bars."""

    def warn(self, message: str) -> None:
        """Print it above the bars where a style for that was given."""
        if self._warning_style is None:
            super().warn(message)
        else:
            self.console.say(f"forgetkit: {message}", self._warning_style)

    def say_at_once(self, line: str) -> None:
        """Note it below the bars: they would overwrite what a signal handler wrote to the terminal itself."""
        self.note = line

    def format_left(self, seconds: float | None) -> str:
        """Leave it to the bars."""
        return ""

    def follow(self, bars: Callable[[], RenderableType], per_second: int = 8) -> AbstractContextManager[object]:
        """The bars are gone at the end. Errors that go elsewhere than to a terminal still go there."""
        return Live(
            get_renderable=bars,
            console=self.console,
            refresh_per_second=per_second,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),
        )


class ProgressDisplay:
    """What is shown of work in progress, on any display."""

    def __init__(self, display: Display) -> None:
        self.display, self.console, self.shows = display, display.console, display.shows
        self.say, self.warn = display.say, display.warn
