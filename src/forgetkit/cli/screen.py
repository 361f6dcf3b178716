"""What a run looks like: a live view on a terminal, plain lines elsewhere, nothing where asked.

All three are observers of the run's events and share one way of being told the rest.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from forgetkit.cli import tables
from forgetkit.cli.console import Console, print_error, say_at_once
from forgetkit.contracts import (
    EpochEnded,
    Event,
    MegaBatchEnded,
    MegaBatchRevealed,
    Preparing,
    RunStarted,
    Settled,
    Stepped,
)

_SHORTEST_BAR = 4


def choose(*, quiet: bool, as_json: bool) -> View:
    """The view that suits: with ``--json`` standard output belongs to the object alone."""
    console = Console(stderr=as_json)
    if quiet:
        return View(console)
    return LiveView(console) if console.moves else PlainView(console)


class View:
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

    def show_rehearsal(self, rehearsal: Mapping[str, Any]) -> None:
        """Nothing."""


class PlainView(View):
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
                self.say(tables.headline(event))
                if event.going_on is not None:
                    self.say(event.going_on)
            case Settled():
                self.say(f"--{event.option} {event.value}: {event.reason}")
            case MegaBatchRevealed():
                self.say(
                    f"mega-batch {event.mega_batch}: {event.arrived} samples arrived, training on {event.train_samples}"
                )
            case MegaBatchEnded():
                self.say(tables.line(event.row))
            case EpochEnded() if time.monotonic() - self._spoke >= self._PAUSE:
                self.say(
                    f"mega-batch {event.mega_batch}: epoch {event.epoch}/{event.epochs}, loss {event.loss:.4f}, "
                    f"accuracy {event.accuracy:.1%}, about {tables.duration(self._estimate.left())} left"
                )
            case Preparing() if event.done == event.total or time.monotonic() - self._spoke >= self._PAUSE:
                self.say(f"{event.what}: {event.done} of {event.total}")
            case _:
                pass

    def say_stopping(self) -> None:
        """A line."""
        say_at_once("forgetkit: stopping after this step, with a state to go on from (again: at once)")

    def show_result(self, result: Mapping[str, Any]) -> None:
        """The table, the totals and where the record is."""
        self.console.print(tables.mega_batches(result, self.console.width))
        self.console.print()
        for text in tables.totals(result):  # a path is left to the terminal to wrap, so that it can be copied whole
            self.console.print(text, markup=False, soft_wrap=text.startswith("record: "))

    def show_rehearsal(self, rehearsal: Mapping[str, Any]) -> None:
        """The plan and its cost."""
        self.console.print(tables.plan(rehearsal, self.console.width))
        self.console.print()
        for text in tables.cost(rehearsal):
            self.console.print(text, markup=False)

    def say(self, text: str) -> None:
        """Print it."""
        self.console.print(text, markup=False)
        self._spoke = time.monotonic()


class LiveView(PlainView):
    """A bar for each mega-batch and one for the whole run, with loss, accuracy and the time left."""

    _SHOWN = 12

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            expand=True,
        )
        self._whole = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            expand=True,
        )
        self._run: TaskID | None = None
        self._preparing: TaskID | None = None
        self._tasks: dict[int, TaskID] = {}
        self._samples: tuple[int, ...] = ()
        self._pool = 1

    @contextmanager
    def following(self) -> Iterator[None]:
        """While the run lasts, the bars are on the screen."""
        with Live(Group(self._bars, self._whole), console=self.console, refresh_per_second=8, transient=True):
            yield

    def notify(self, event: Event) -> None:
        """Move the bars."""
        View.notify(self, event)
        match event:
            case Preparing():
                if self._preparing is None:
                    self._preparing = self._whole.add_task(event.what, total=event.total)
                self._whole.update(self._preparing, completed=event.done, total=event.total)
                if event.done == event.total:
                    self._whole.remove_task(self._preparing)
                    self._preparing = None
            case Settled():
                self.console.print(f"--{event.option} {event.value}: {event.reason}", markup=False)
            case RunStarted():
                self.console.print(tables.headline(event), markup=False)
                if event.going_on is not None:
                    self.console.print(event.going_on, markup=False)
                self._samples = event.samples
                done = sum(event.samples[: event.done]) + event.done_samples
                self._run = self._whole.add_task("run", total=sum(event.samples), completed=done)
            case MegaBatchRevealed():
                name = f"mega-batch {event.mega_batch}/{len(self._samples)}"
                self._pool, total = event.train_samples, self._samples[event.mega_batch - 1]
                self._tasks[event.mega_batch] = self._bars.add_task(name, total=total, state="learning")
                if len(self._tasks) > self._SHOWN:
                    self._bars.update(self._tasks[min(self._tasks)], visible=False)
                    del self._tasks[min(self._tasks)]
            case Stepped():
                self._move(event.mega_batch, event.epoch - 1, event.done / event.total)
            case EpochEnded():
                state = self._fitting(event.mega_batch, f"loss {event.loss:.4f}", f"accuracy {event.accuracy:6.1%}")
                self._bars.update(self._tasks[event.mega_batch], state=state)
                self._move(event.mega_batch, event.epoch)
            case MegaBatchEnded():
                row = event.row
                epochs = -(-self._samples[row.index - 1] // row.train_samples)
                parts = [f"test {row.test_accuracy:6.1%}", f"errors {row.test_errors}", tables.duration(row.seconds)]
                if row.carried_epoch not in (None, epochs):
                    parts.insert(2, f"epoch {row.carried_epoch}")
                state = self._fitting(row.index, *parts)
                self._bars.update(self._tasks[row.index], state=state)
                self._move(row.index, epochs)  # patience may have ended it early
            case _:
                pass

    def _fitting(self, mega_batch: int, *parts: str) -> str:
        """As many of the parts as have room beside the name and the shortest bar: no word is cut."""
        name = f"mega-batch {mega_batch}/{len(self._samples)}"
        room = self.console.width - len(name) - _SHORTEST_BAR - 2
        while len(parts) > 1 and len("  ".join(parts)) > room:
            parts = parts[:-1]
        return "  ".join(parts)

    def _move(self, mega_batch: int, epochs: int, share: float = 0.0) -> None:
        """So many epochs of a mega-batch are done, and a share of the next; the last may be shorter than others."""
        total = self._samples[mega_batch - 1]
        whole = min(epochs * self._pool, total)
        done = whole + share * min(self._pool, total - whole)
        self._bars.update(self._tasks[mega_batch], completed=done)
        if self._run is not None:
            self._whole.update(self._run, completed=sum(self._samples[: mega_batch - 1]) + done)


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
