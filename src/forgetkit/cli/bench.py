"""``forgetkit bench``: how fast this machine runs it, against a bare loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from forgetkit.bench.cases import NAMES
from forgetkit.display.console import Console, print_json

if TYPE_CHECKING:
    from forgetkit.bench import BenchmarkCase, BenchmarkOptions, Machine, Measurement, SkippedCase

_WIDE = 76
"""Columns of a terminal that hold the table without folding a figure."""

_COLOURS = {"met": "green", "missed": "yellow"}


def command(
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case", help=f"A case to measure (repeatable; default: all): {', '.join(NAMES)}.", metavar="NAME"
        ),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", help="How often each side is timed.", metavar="N", min=1)
    ] = 7,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", metavar="DEVICE")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads on the CPU (default: torch's own).", metavar="N", min=1),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one object; the table goes to standard error.")] = False,
) -> None:
    """Measure how fast this machine runs forgetkit, each case beside a reference.

    Both sides run in turn, and the medians over the repetitions are compared. A target that is missed is no failure.
    """
    from forgetkit import bench

    cases = bench.choose_cases(case or ())  # before torch is imported
    from forgetkit.config import machine

    setting = bench.BenchmarkOptions(machine.resolve_device(device))
    with bench.threads(threads):
        here = bench.describe_machine(setting.device)
        view = _view(Console(stderr=json))
        view.say(_headline(here))
        try:
            results = list(_measured(cases, setting, repetitions, view))
        except KeyboardInterrupt:
            print("forgetkit: interrupted", file=sys.stderr)
            raise
    if json:
        print_json({"schema": 1, "machine": here.as_dict(), "cases": [result.as_dict() for result in results]})


def _measured(
    cases: Sequence[BenchmarkCase], setting: BenchmarkOptions, repetitions: int, view: _Lines
) -> Iterator[Measurement | SkippedCase]:
    from forgetkit.bench import measure

    with view.following():
        for place, case in enumerate(cases, 1):
            view.begin(case, place, len(cases))
            result = measure(case, setting, repetitions, view.told)
            view.end(result)
            yield result


def _headline(here: Machine) -> str:
    device = "" if here.device == "cpu" else f", {here.device}"
    threads = f"{here.threads} thread{'s' if here.threads > 1 else ''}"
    return (
        f"{here.processor}, {here.cores} cores, {threads}, {here.instructions}{device}; "
        f"Python {here.python}, torch {here.torch}, forgetkit {here.forgetkit}"
    )


def _view(console: Console) -> _Lines:
    return _Screen(console) if console.is_terminal and console.width >= _WIDE else _Lines(console)


class _Lines:
    """A line per case when it is done: for a file or a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def following(self) -> Iterator[None]:
        """While cases are measured."""
        yield

    def say(self, text: str) -> None:
        """A line."""
        self._console.print(text, markup=False)

    def begin(self, case: BenchmarkCase, place: int, total: int) -> None:
        """A case begins."""

    def told(self, done: int, total: int) -> None:
        """So many repetitions of it are done."""

    def end(self, result: Measurement | SkippedCase) -> None:
        """It is done, or was skipped."""
        from forgetkit.bench import Measurement, row

        case = result.case
        if not isinstance(result, Measurement):
            self.say(f"{case.name}: skipped: {result.reason}")
            return
        _, ours, reference, figure, spread, target, verdict = row(result)
        wanted = f", target {target}: {verdict}" if target else ""
        fault = f" ({result.fault})" if result.fault else ""
        self.say(f"{case.name}: {ours} against {reference}: {figure} ({spread}){wanted}{fault}")


class _Screen(_Lines):
    """A table that grows, and how far the case at work is: for a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._results: list[Measurement | SkippedCase] = []
        self._now = ""
        # Without a thread that redraws: it would take time from what is timed.
        self._live = Live(console=console, auto_refresh=False)

    @contextmanager
    def following(self) -> Iterator[None]:
        """While the table is on the screen."""
        with self._live:
            yield
            self._now = ""
            self._draw()

    def begin(self, case: BenchmarkCase, place: int, total: int) -> None:
        """Say what is measured."""
        self._now = f"{place} of {total}: {case.name}: {case.ours}, against {case.reference}"
        self._draw()

    def told(self, done: int, total: int) -> None:
        """Say how far it is."""
        self._draw(f" ({done} of {total} repetitions)")

    def end(self, result: Measurement | SkippedCase) -> None:
        """One row more."""
        self._results.append(result)
        self._draw()

    def _draw(self, progress: str = "") -> None:
        self._live.update(Group(_table(self._results), Text(self._now + progress, "dim")), refresh=True)


def _table(results: Sequence[Measurement | SkippedCase]) -> Table:
    from forgetkit.bench import HEADINGS, SkippedCase, row

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for result in results:
        *texts, verdict = row(result)
        table.add_row(*map(Text, texts), Text(verdict, _COLOURS.get(verdict, "dim")))
    for result in results:
        reason = result.reason if isinstance(result, SkippedCase) else result.fault
        if reason:
            table.caption = f"{table.caption + '; ' if table.caption else ''}{result.case.name}: {reason}"
    return table
