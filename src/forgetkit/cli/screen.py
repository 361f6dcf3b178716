"""What a run looks like: a live view on a terminal, plain lines elsewhere, nothing where asked.

All three are observers of the run's events and share one way of being told the rest.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import RenderableType
from rich.live import Live

from forgetkit.cli import layout, tables
from forgetkit.cli.console import Console, print_error, say_at_once
from forgetkit.contracts import (
    EpochEnded,
    Event,
    LoadProgress,
    MegaBatchEnded,
    MegaBatchRevealed,
    OptionResolved,
    RunStarted,
    StepProgress,
)

STOPPING = "forgetkit: stopping after this step (again: at once)"


def choose_run_display(*, quiet: bool, as_json: bool) -> RunDisplay:
    """The view that suits: with ``--json`` standard output belongs to the object alone."""
    console = Console(stderr=as_json)
    if quiet:
        return RunDisplay(console)
    return LiveRunDisplay(console) if console.moves else PlainRunDisplay(console)


class RunDisplay:
    """Says nothing of a run that goes well."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._directory: str | None = None
        self._code: list[str] = []

    def notify(self, event: Event) -> None:
        """Remember where the run is recorded."""
        if isinstance(event, RunStarted):
            self.remember(event.directory, event.config)

    def remember(self, directory: str, options: Mapping[str, Any]) -> None:
        """Where a run is recorded, and which of its options are to be said again: how to resume it can then be told."""
        from forgetkit import config

        self._directory = directory
        self._code = [word for key, spec in config.code_of(options).items() for word in (f"--{key}", spec)]

    @contextmanager
    def following(self) -> Iterator[None]:
        """While the run lasts."""
        yield

    def warn(self, message: str) -> None:
        """A line on standard error."""
        print_error(f"forgetkit: {message}")

    def say(self, text: str) -> None:
        """A line that is no warning."""

    def say_stopping(self) -> None:
        """Nothing; called by a signal, in the midst of anything."""

    def say_how_to_resume(self, options: Sequence[str]) -> None:
        """After an interruption: nothing finished is lost. ``options`` are what the record does not know."""
        if self._directory is not None:
            command = shlex.join(["forgetkit", "run", "--resume", self._directory, *self._code, *options])
            print_error(f"to go on: {command}")

    def show_result(self, result: Mapping[str, Any]) -> None:
        """Nothing."""

    def show_dry_run(self, estimate: Mapping[str, Any]) -> None:
        """Nothing."""


class PlainRunDisplay(RunDisplay):
    """A line for each mega-batch, and one for an epoch now and then."""

    _PAUSE = 10.0

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._spoke = time.monotonic()
        self._estimate = _Estimate()

    def notify(self, event: Event) -> None:
        """Print what is worth a line in a log file."""
        super().notify(event)
        self._estimate.notify(event)
        match event:
            case RunStarted():
                self.say(tables.run_headline(event))
                if event.resume_message is not None:
                    self.say(event.resume_message)
            case OptionResolved():
                self.say(f"--{event.option} {event.value}: {event.reason}")
            case MegaBatchRevealed():
                self.say(
                    f"mega-batch {event.mega_batch}: {event.arrived} samples arrived, training on {event.train_samples}"
                )
            case MegaBatchEnded():
                self.say(tables.row_line(event.row))
            case EpochEnded() if time.monotonic() - self._spoke >= self._PAUSE:
                self.say(
                    f"mega-batch {event.mega_batch}: epoch {event.epoch}/{event.epochs}, loss {event.loss:.4f}, "
                    f"accuracy {event.accuracy:.1%}, about {tables.duration(self._estimate.left())} left"
                )
            case LoadProgress() if event.done == event.total or time.monotonic() - self._spoke >= self._PAUSE:
                self.say(f"{event.what}: {event.done} of {event.total}")
            case _:
                pass

    def say_stopping(self) -> None:
        """A line."""
        say_at_once(STOPPING)

    def show_result(self, result: Mapping[str, Any]) -> None:
        """The table, the totals and where the record is."""
        self.console.print(tables.mega_batches(result, self.console.width))
        self.console.print()
        for text in tables.totals(result):
            self.console.say(text)

    def show_dry_run(self, estimate: Mapping[str, Any]) -> None:
        """The plan and its cost."""
        self.console.print(tables.plan(estimate, self.console.width))
        self.console.print()
        for text in tables.cost(estimate):
            self.console.say(text)

    def say(self, text: str) -> None:
        """Print it."""
        self.console.say(text)
        self._spoke = time.monotonic()


class LiveRunDisplay(PlainRunDisplay):
    """A bar for each mega-batch and one for the whole run, with loss, accuracy and the time left."""

    _SHOWN = 12

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars: dict[int, layout.Bar] = {}
        self._whole: layout.Bar | None = None
        self._preparing: layout.Bar | None = None
        self._stopping = ""
        self._samples: tuple[int, ...] = ()
        self._pool = 1
        self._began, self._share_before = 0.0, 0.0

    @contextmanager
    def following(self) -> Iterator[None]:
        """While the run lasts, the bars are on the screen."""
        with live_display(self.console, self.bars, 8):
            yield

    def bars(self) -> RenderableType:
        """What is on the screen now; another thread asks."""
        shown = [*self._bars.values(), *(bar for bar in (self._preparing, self._whole) if bar is not None)]
        return layout.bars(*self.console.size, shown, self._stopping)

    def say_stopping(self) -> None:
        """Below the bars: what a signal wrote to the terminal itself, the bars would overwrite."""
        self._stopping = STOPPING

    def notify(self, event: Event) -> None:
        """Move the bars."""
        RunDisplay.notify(self, event)
        match event:
            case LoadProgress():
                share = event.done / max(event.total, 1)
                self._preparing = layout.Bar(event.what, share, (f"{share:4.0%}",)) if share < 1 else None
            case OptionResolved():
                self.say(f"--{event.option} {event.value}: {event.reason}")
            case RunStarted():
                self.say(tables.run_headline(event))
                if event.resume_message is not None:
                    self.say(event.resume_message)
                self._samples, self._began = event.samples, time.monotonic()
                self._share_before = (sum(event.samples[: event.done]) + event.done_samples) / sum(event.samples)
                self._show_whole(self._share_before)
            case MegaBatchRevealed():
                self._pool = event.train_samples
                self._bars[event.mega_batch] = layout.Bar(self._name(event.mega_batch), 0.0, ("learning",))
                if len(self._bars) > self._SHOWN:
                    del self._bars[min(self._bars)]
            case StepProgress():
                self._move(event.mega_batch, event.epoch - 1, event.done / event.total)
            case EpochEnded():
                self._move(
                    event.mega_batch, event.epoch, parts=(f"loss {event.loss:.4f}", f"accuracy {event.accuracy:6.1%}")
                )
            case MegaBatchEnded():
                row = event.row
                epochs = -(-self._samples[row.index - 1] // row.train_samples)
                parts = [f"test {row.test_accuracy:6.1%}", f"errors {row.test_errors}", tables.duration(row.seconds)]
                if row.carried_epoch not in (None, epochs):
                    parts.insert(2, f"epoch {row.carried_epoch}")
                self._move(row.index, epochs, parts=parts)  # patience may have ended it early
            case _:
                pass

    def _name(self, mega_batch: int) -> str:
        return f"mega-batch {mega_batch}/{len(self._samples)}"

    def _move(self, mega_batch: int, epochs: int, share: float = 0.0, parts: Sequence[str] = ()) -> None:
        """So many epochs of a mega-batch are done, and a share of the next; the last may be shorter than others."""
        total = self._samples[mega_batch - 1]
        whole = min(epochs * self._pool, total)
        done = whole + share * min(self._pool, total - whole)
        parts = parts or self._bars[mega_batch].parts
        self._bars[mega_batch] = layout.Bar(self._name(mega_batch), done / total, parts)
        self._show_whole((sum(self._samples[: mega_batch - 1]) + done) / sum(self._samples))

    def _show_whole(self, share: float) -> None:
        """The bar of the run, with the time left at the pace since this process began."""
        done = share - self._share_before
        left = (time.monotonic() - self._began) * (1 - share) / done if done > 0 else None
        parts = (f"{share * 100:3.0f} %", *(() if left is None else (f"{tables.duration(left)} left",)))
        self._whole = layout.Bar("run", share, parts, "bold")


def live_display(console: Console, shown: Callable[[], RenderableType], per_second: int) -> Live:
    """What moves on a terminal and is gone at the end. Errors that go elsewhere than to a terminal still go there."""
    return Live(
        get_renderable=shown,
        console=console,
        refresh_per_second=per_second,
        transient=True,
        redirect_stderr=sys.stderr.isatty(),
    )


class _Estimate:
    """How long the rest takes, at the pace so far."""

    def __init__(self) -> None:
        self._samples: tuple[int, ...] = ()
        self._total, self._done, self._seconds = 0, 0, 0.0

    def notify(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._samples = event.samples
            self._total = sum(event.samples[event.done :]) - event.done_samples
        elif isinstance(event, EpochEnded):
            self._done += event.samples
            self._seconds += event.seconds
        elif isinstance(event, MegaBatchEnded):  # patience may have ended it before all its samples were seen
            self._total = self._done + sum(self._samples[event.row.index :])

    def left(self) -> float:
        return self._seconds * (self._total - self._done) / self._done if self._done else 0.0
