"""What is seen while finished runs are asked questions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from forgetkit.cli import layout, screen, tables
from forgetkit.cli.console import Console, print_error
from forgetkit.contracts import Measure
from forgetkit.results.render import formatting

if TYPE_CHECKING:
    from forgetkit.results.outcome import Outcomes
    from forgetkit.results.questions import AnalysisOutcome

_SAID_IN_A_LINE = 4
"""Numbers of an answer that a line names; the rest is in tables, files and the report."""


def choose_analysis_display(*, quiet: bool, as_json: bool) -> AnalysisDisplay:
    """The view that suits: with ``--json`` standard output belongs to the object alone."""
    console = Console(stderr=as_json)
    if quiet:
        return AnalysisDisplay(console)
    return LiveAnalysisDisplay(console) if console.moves else PlainAnalysisDisplay(console)


class AnalysisDisplay:
    """Says nothing of questions that are answered; each reason why one is not, once."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._said: set[tuple[str, str]] = set()

    @contextmanager
    def following(self, total: int) -> Iterator[None]:
        """While questions are put, ``total`` of them to single runs."""
        yield

    def asking(self, what: str) -> None:
        """A question is put."""

    def say(self, text: str) -> None:
        """A line that is no warning."""

    def warn(self, message: str) -> None:
        """A line on standard error."""
        print_error(f"forgetkit: {message}")

    def tell(self, told: AnalysisOutcome) -> None:
        """What became of a question."""
        if told.became == "failed":
            self._once(told, f"{told.run}: {told.question.label}: {told.reason}")

    def lacks(self, label: str, reason: str) -> None:
        """One that was asked for by name has no answer for any run."""
        self.warn(f"{label} does not apply: {reason}")

    def pass_over(self, told: AnalysisOutcome) -> None:
        """One that does not apply to a run, since it is about several."""

    def _once(self, told: AnalysisOutcome, line: str) -> bool:
        """What concerns a run as a whole is the same for each question to it. Whether it was said now."""
        known = (told.run, told.reason) in self._said
        if not known:
            self._said.add((told.run, told.reason))
            self.warn(line)
        return not known

    def show(self, told: Sequence[AnalysisOutcome], outcomes: Outcomes | None) -> None:
        """Nothing."""


class PlainAnalysisDisplay(AnalysisDisplay):
    """A line for each question, and at the end the numbers."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._total, self._done, self._began = 0, 0, 0.0

    @contextmanager
    def following(self, total: int) -> Iterator[None]:
        """Count them."""
        self._total, self._done, self._began = total, 0, time.monotonic()
        yield

    def say(self, text: str) -> None:
        """Print it."""
        self.console.say(text)

    def tell(self, told: AnalysisOutcome) -> None:
        """Which run, which question, and what was found or why nothing was."""
        if not told.common:
            self._done += 1
        place = "" if told.common else f"[{self._done}/{self._total}] "
        name = f"{place}{told.run}: {told.question.label}"
        if told.became == "failed":
            if not self._once(told, f"{name}: {told.reason}"):
                self.say(f"{name} failed, as above")
        elif told.answer is None:
            if (told.question.label, told.reason) not in self._said:
                self._said.add((told.question.label, told.reason))
                self.say(f"{name} does not apply: {told.reason}")
            else:
                self.say(f"{name} does not apply, as above")
        else:
            took = "there already" if told.became == "known" else tables.duration(told.seconds)
            self.say(f"{name}: {_numbers(told.answer.numbers)} ({took}{self._left()})")

    def pass_over(self, told: AnalysisOutcome) -> None:
        """It counts, and a count that skipped would look as if a line were lost."""
        self._done += 1
        self.say(f"[{self._done}/{self._total}] {told.run}: {told.question.label} is asked of all runs together")

    def lacks(self, label: str, reason: str) -> None:
        """It was said for each run."""

    def _left(self) -> str:
        if not 0 < self._done < self._total:
            return ""
        spent = time.monotonic() - self._began
        return f", about {tables.duration(spent * (self._total - self._done) / self._done)} left"

    def show(self, told: Sequence[AnalysisOutcome], outcomes: Outcomes | None) -> None:
        """The numbers of each answer, arm by arm, and what must be known of them."""
        for label in dict.fromkeys(one.question.label for one in told if one.answer is not None):
            own = [one for one in told if one.question.label == label and one.answer is not None]
            self.console.print()
            if outcomes is not None and any(not one.common for one in own):
                self._table(label, outcomes)
            else:
                asked = own[0].question
                after = "" if asked.mega_batch is None else f", after mega-batch {asked.mega_batch}"
                self.console.print(Text(f"{label} ({asked.spec}{after})", "bold"))
                self.console.print(Text(asked.summary, "dim"))
                for key, text in _lines([one for one in own if not one.common]):
                    self.console.print(f"  {key:24}{text}", markup=False)
            for key, text in _lines([one for one in own if one.common]):
                self.console.print(f"  all runs: {key:24}{text}", markup=False)
            in_table = outcomes is not None and any(not one.common for one in own)
            for line in _meanings([one for one in own if one.common or not in_table]):
                self.console.print(Text(line, "dim"))
            for remark in dict.fromkeys(remark for one in own if one.answer for remark in one.answer.remarks):
                self.console.print(Text(f"- {remark}", "dim"))

    def _table(self, label: str, outcomes: Outcomes) -> None:
        from forgetkit.cli import table_view
        from forgetkit.results.columns import answer_columns
        from forgetkit.results.table import make_table

        table = dataclasses.replace(make_table(outcomes, answer_columns(outcomes, label)), title=label)
        table_view.show_table(self.console, table, outcomes, briefly=True)


class LiveAnalysisDisplay(PlainAnalysisDisplay):
    """A bar with the time left; each answer leaves a line."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._what = "asking"

    @contextmanager
    def following(self, total: int) -> Iterator[None]:
        """While questions are put, the bar is on the screen."""
        with super().following(total), screen.live_display(self.console, self.bars, 8):
            yield

    def bars(self) -> RenderableType:
        """What is on the screen now; another thread asks."""
        parts = (f"{self._done}/{self._total}", *filter(None, [super()._left().removeprefix(", ")]))
        return layout.bars(*self.console.size, [layout.Bar(self._what, self._done / max(self._total, 1), parts)])

    def asking(self, what: str) -> None:
        """Beside the bar."""
        self._what = what

    def _left(self) -> str:
        return ""


def _numbers(numbers: Mapping[str, Measure | float | None]) -> str:
    shown = [f"{key} {text}" for key, text in _texts(numbers)]
    more = len(shown) - _SAID_IN_A_LINE
    return ", ".join(shown[:_SAID_IN_A_LINE]) + (f" and {more} more" if more > 0 else "") or "no numbers"


def _lines(told: Sequence[AnalysisOutcome]) -> Iterator[tuple[str, str]]:
    for one in told:
        if one.answer is not None:
            yield from _texts(one.answer.numbers)


def _meanings(told: Sequence[AnalysisOutcome]) -> Iterator[str]:
    """What each number is, as the analysis says it."""
    for one in told:
        for key, value in one.answer.numbers.items() if one.answer is not None else ():
            if isinstance(value, Measure) and value.meaning:
                title = formatting.one_line(value.title) or key.replace("_", " ")
                yield f"{title}: {formatting.one_line(value.meaning)}."


def _texts(numbers: Mapping[str, Measure | float | None]) -> Iterator[tuple[str, str]]:
    units = {"fraction": " %", "seconds": " s", "bytes": " MiB"}
    for key, value in numbers.items():
        measure = value if isinstance(value, Measure) else Measure(value)
        text = (
            "–"
            if measure.value is None
            else formatting.format_figure(measure.value, measure.unit) + units.get(measure.unit, "")
        )
        yield measure.title or key.replace("_", " "), text
