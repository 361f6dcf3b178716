"""A run as lines and bars: its events, its result, its plan."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from rich.console import RenderableType

from forgetkit.contracts import (
    EpochEnded,
    Event,
    LoadProgress,
    MegaBatchEnded,
    MegaBatchResult,
    MegaBatchRevealed,
    OptionResolved,
    RunStarted,
    StepProgress,
)
from forgetkit.display import layout, run_tables
from forgetkit.display.console import print_error
from forgetkit.display.display import Display, ProgressDisplay, choose_display

STOPPING = "forgetkit: stopping after this step (again: abort)"
_PAUSE = 10.0
"""Seconds without a line, after which an epoch gets one."""
_BARS_SHOWN = 12


def choose_run_display(*, quiet: bool, as_json: bool) -> RunDisplay:
    """Choose the display for where the process runs."""
    return RunDisplay(choose_display(quiet=quiet, as_json=as_json))


class RunDisplay(ProgressDisplay):
    """Observes a run: shows a line or a bar for each mega-batch, and a bar for the run with the time left."""

    def __init__(self, display: Display) -> None:
        super().__init__(display)
        self._directory: str | None = None
        self._code: list[str] = []
        self._estimate = _Estimate()
        self._bars: dict[int, layout.Bar] = {}
        self._whole: layout.Bar | None = None
        self._preparing: layout.Bar | None = None
        self._samples: tuple[int, ...] = ()
        self._pool = 1
        self._began, self._share_before = 0.0, 0.0

    def remember(self, directory: str, options: Mapping[str, Any]) -> None:
        """Note the directory of a run, and the options that resuming needs again."""
        from forgetkit import config

        self._directory = directory
        self._code = [word for key, spec in config.code_of(options).items() for word in (f"--{key}", spec)]

    def progress_context(self) -> AbstractContextManager[object]:
        """Return a context in which the bars are on the screen."""
        return self.display.follow(self.bars)

    def bars(self) -> RenderableType:
        """Return the bars now; another thread calls this."""
        shown = [*self._bars.values(), *(bar for bar in (self._preparing, self._whole) if bar is not None)]
        return layout.bars(*self.console.size, shown, self.display.note)

    def say_stopping(self) -> None:
        """Print a line; a signal handler calls this."""
        self.display.say_at_once(STOPPING)

    def say_how_to_resume(self, options: Sequence[str]) -> None:
        """Print the command that resumes; ``options`` are those that the record does not hold."""
        if self._directory is not None:
            command = shlex.join(["forgetkit", "run", "--resume", self._directory, *self._code, *options])
            print_error(f"to go on: {command}")

    def show_result(self, result: Mapping[str, Any]) -> None:
        """Print the table, the totals and the directory."""
        if self.shows:
            self._print(run_tables.mega_batches(result, self.console.width), run_tables.totals(result))

    def show_dry_run(self, estimate: Mapping[str, Any]) -> None:
        """Print the plan and its cost."""
        if self.shows:
            self._print(run_tables.plan(estimate, self.console.width), run_tables.cost(estimate))

    def _print(self, table: RenderableType, lines: Iterable[str]) -> None:
        self.console.print(table)
        self.console.print()
        for text in lines:
            self.console.say(text)

    def notify(self, event: Event) -> None:
        """Print a line or move the bars."""
        self._estimate.notify(event)
        match event:
            case LoadProgress():
                share = event.done / max(event.total, 1)
                self._preparing = layout.Bar(event.what, share, (f"{share:4.0%}",)) if share < 1 else None
                done = event.done == event.total
                self.display.log(f"{event.what}: {event.done} of {event.total}", 0.0 if done else _PAUSE)
            case OptionResolved():
                self.say(f"--{event.option} {event.value}: {event.reason}")
            case RunStarted():
                self.remember(event.directory, event.config)
                self.say(run_tables.run_headline(event))
                if event.resume_message is not None:
                    self.say(event.resume_message)
                self._samples, self._began = event.samples, time.monotonic()
                self._share_before = (sum(event.samples[: event.done]) + event.done_samples) / sum(event.samples)
                self._show_whole(self._share_before)
            case MegaBatchRevealed():
                self.display.log(
                    f"mega-batch {event.mega_batch}: {event.arrived} samples arrived, training on {event.train_samples}"
                )
                self._pool = event.train_samples
                self._bars[event.mega_batch] = layout.Bar(self._name(event.mega_batch), 0.0, ("learning",))
                if len(self._bars) > _BARS_SHOWN:
                    del self._bars[min(self._bars)]
            case StepProgress():
                self._move(event.mega_batch, event.epoch - 1, event.done / event.total)
            case EpochEnded():
                self.display.log(
                    f"mega-batch {event.mega_batch}: epoch {event.epoch}/{event.epochs}, loss {event.loss:.4f}, "
                    f"accuracy {event.accuracy:.1%}{self.display.format_left(self._estimate.left())}",
                    _PAUSE,
                )
                parts = (f"loss {event.loss:.4f}", f"accuracy {event.accuracy:6.1%}")
                self._move(event.mega_batch, event.epoch, parts=parts)
            case MegaBatchEnded():
                self.display.log(run_tables.row_line(event.row))
                self._end(event.row)
            case _:
                pass

    def _end(self, row: MegaBatchResult) -> None:
        epochs = -(-self._samples[row.index - 1] // row.train_samples)
        parts = [f"test {row.test_accuracy:6.1%}", f"errors {row.test_errors}", run_tables.duration(row.seconds)]
        if row.carried_epoch not in (None, epochs):
            parts.insert(2, f"epoch {row.carried_epoch}")
        self._move(row.index, epochs, parts=parts)  # patience may have ended it early

    def _name(self, mega_batch: int) -> str:
        return f"mega-batch {mega_batch}/{len(self._samples)}"

    def _move(self, mega_batch: int, epochs: int, share: float = 0.0, parts: Sequence[str] = ()) -> None:
        """Show that ``epochs`` of a mega-batch are done, and a share of the next; the last epoch may be shorter."""
        total = self._samples[mega_batch - 1]
        whole = min(epochs * self._pool, total)
        done = whole + share * min(self._pool, total - whole)
        parts = parts or self._bars[mega_batch].parts
        self._bars[mega_batch] = layout.Bar(self._name(mega_batch), done / total, parts)
        self._show_whole((sum(self._samples[: mega_batch - 1]) + done) / sum(self._samples))

    def _show_whole(self, share: float) -> None:
        """Show the bar of the run, with the time left at the pace since this process began."""
        done = share - self._share_before
        left = (time.monotonic() - self._began) * (1 - share) / done if done > 0 else None
        parts = (f"{share * 100:3.0f} %", *(() if left is None else (f"{run_tables.duration(left)} left",)))
        self._whole = layout.Bar("run", share, parts, "bold")


class _Estimate:
    """Estimates the time left, at the pace so far."""

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
