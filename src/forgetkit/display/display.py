"""Where progress is shown: nowhere, in lines, in bars on a terminal, or below the cell of a notebook."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module

from rich.console import RenderableType
from rich.live import Live

from forgetkit.display import console
from forgetkit.display.run_tables import duration

_NOTEBOOK_WIDTH = 100
_NOTEBOOK_BARS = '<pre style="line-height: normal">{code}</pre>'


def choose_display(*, quiet: bool, as_json: bool, warning_style: str | None = None) -> Display:
    """Choose the display for where the process runs.

    Args:
        quiet: Whether warnings alone are shown.
        as_json: Whether the display writes to standard error, because standard output is for a JSON object.
        warning_style: How a live display prints warnings above its bars; None leaves them to standard error.
    """
    out = console.Console(stderr=as_json)
    if quiet:
        return Display(out)
    if out.is_jupyter:
        return NotebookDisplay(console.Console(stderr=as_json, width=_NOTEBOOK_WIDTH, soft_wrap=False))
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
        """Return ``, about N left``."""
        return "" if seconds is None else f", about {duration(seconds)} left"


class LiveDisplay(PlainDisplay):
    """Moves bars; lines go above them."""

    def __init__(self, out: console.Console, warning_style: str | None = None) -> None:
        super().__init__(out)
        self._warning_style = warning_style

    def log(self, text: str, after: float = 0.0) -> None:
        """Leave it to the bars."""

    def warn(self, message: str) -> None:
        """Print it above the bars if a style for it was given."""
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


class NotebookDisplay(LiveDisplay):
    """Redraws bars below the cell of a notebook; IPython alone is needed."""

    @contextmanager
    def follow(self, bars: Callable[[], RenderableType], per_second: int = 8) -> Iterator[None]:
        """Redraw the bars until the end, and then remove them."""
        ipython, done = import_module("IPython.display"), threading.Event()
        output = ipython.display(ipython.HTML(""), display_id=True)

        def redraw() -> None:
            while not done.wait(1 / per_second):
                output.update(ipython.HTML(_to_html(bars())))

        thread = threading.Thread(target=redraw, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            output.update(ipython.HTML(""))


def _to_html(bars: RenderableType) -> str:
    page = console.Console(
        file=io.StringIO(),
        width=_NOTEBOOK_WIDTH,
        record=True,
        force_terminal=True,
        force_jupyter=False,
        color_system="truecolor",
    )
    page.print(bars)
    return page.export_html(inline_styles=True, code_format=_NOTEBOOK_BARS)


class ProgressDisplay:
    """What is shown of work in progress, on any display. ``warn`` replaces the warnings of the display."""

    def __init__(self, display: Display, warn: Callable[[str], None] | None = None) -> None:
        self.display, self.console, self.shows = display, display.console, display.shows
        self.say, self.warn = display.say, warn or display.warn
