"""What is seen while finished runs are asked questions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from forgetkit.contracts import Measure
from forgetkit.display import layout, table_view
from forgetkit.display.display import Display, ProgressDisplay, choose_display
from forgetkit.display.run_tables import duration
from forgetkit.results.render import formatting

if TYPE_CHECKING:
    from forgetkit.results.outcome import Outcomes
    from forgetkit.results.questions import AnalysisOutcome

_SAID_IN_A_LINE = 4
"""Numbers of an answer that a line names; the rest is in tables, files and the report."""


def choose_analysis_display(*, quiet: bool, as_json: bool) -> AnalysisDisplay:
    """Show questions as the options ask."""
    return AnalysisDisplay(choose_display(quiet=quiet, as_json=as_json))


class AnalysisDisplay(ProgressDisplay):
    """A line for each question, a bar with the time left, and at the end the numbers; each reason is said once."""

    def __init__(self, display: Display) -> None:
        super().__init__(display)
        self._said: set[tuple[str, str]] = set()
        self._total, self._done, self._began = 0, 0, 0.0
        self._what = "asking"

    def following(self, total: int) -> AbstractContextManager[object]:
        """While questions are put, ``total`` of them to single runs, the bar is on the screen."""
        self._total, self._done, self._began = total, 0, time.monotonic()
        return self.display.follow(self.bars)

    def bars(self) -> RenderableType:
        """What is on the screen now; another thread asks."""
        left = self._left()
        parts = [f"{self._done}/{self._total}", *([] if left is None else [f"about {duration(left)} left"])]
        return layout.bars(*self.console.size, [layout.Bar(self._what, self._done / max(self._total, 1), parts)])

    def asking(self, what: str) -> None:
        """Beside the bar."""
        self._what = what

    def tell(self, told: AnalysisOutcome) -> None:
        """Which run, which question, and what was found or why nothing was."""
        self._done += not told.common
        place = f"[{self._done}/{self._total}] " if self.shows and not told.common else ""
        name = f"{place}{told.run}: {told.question.label}"
        if told.became == "failed":
            # What concerns a run as a whole is the same for each question to it.
            if self._is_new(told.run, told.reason):
                self.warn(f"{name}: {told.reason}")
            else:
                self.say(f"{name} failed, as above")
        elif told.answer is None:
            new = self._is_new(told.question.label, told.reason)
            self.say(f"{name} does not apply{f': {told.reason}' if new else ', as above'}")
        else:
            took = "there already" if told.became == "known" else duration(told.seconds)
            left = self.display.format_left(self._left())
            self.say(f"{name}: {_numbers(told.answer.numbers)} ({took}{left})")

    def pass_over(self, told: AnalysisOutcome) -> None:
        """It counts, and a count that skipped would look as if a line were lost."""
        self._done += 1
        self.say(f"[{self._done}/{self._total}] {told.run}: {told.question.label} is asked of all runs together")

    def warn_unanswered(self, label: str, reason: str) -> None:
        """Warn of an analysis that no run answers, unless each run had a line about it."""
        if not self.shows:
            self.warn(f"{label} does not apply: {reason}")

    def _is_new(self, about: str, reason: str) -> bool:
        """Whether it was not said before."""
        new = (about, reason) not in self._said
        self._said.add((about, reason))
        return new

    def _left(self) -> float | None:
        spent = time.monotonic() - self._began
        return spent * (self._total - self._done) / self._done if 0 < self._done < self._total else None

    def show(self, told: Sequence[AnalysisOutcome], outcomes: Outcomes | None) -> None:
        """The numbers of each answer, arm by arm, and what must be known of them."""
        if not self.shows:
            return
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
        from forgetkit.results.columns import answer_columns
        from forgetkit.results.table import make_table

        table = dataclasses.replace(make_table(outcomes, answer_columns(outcomes, label)), title=label)
        table_view.show_table(self.console, table, outcomes, briefly=True)


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
