"""The analyses of finished runs, as lines, a bar and tables."""

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

_MOST_IN_A_LINE = 4
"""The most numbers of an answer in a line."""


def choose_analysis_display(*, quiet: bool, as_json: bool) -> AnalysisDisplay:
    """Choose the display for where the process runs."""
    return AnalysisDisplay(choose_display(quiet=quiet, as_json=as_json))


class AnalysisDisplay(ProgressDisplay):
    """Shows a line for each question, a bar with the time left, and at the end the numbers; each reason once."""

    def __init__(self, display: Display) -> None:
        super().__init__(display)
        self._reasons: set[tuple[str, str]] = set()
        self._total, self._done, self._start_time = 0, 0, 0.0
        self._what = "analyzing"

    def progress_context(self, total: int) -> AbstractContextManager[object]:
        """Return a context with a bar about ``total`` questions to single runs."""
        self._total, self._done, self._start_time = total, 0, time.monotonic()
        return self.display.follow(self.bars)

    def bars(self) -> RenderableType:
        """Return the bar now; another thread calls this."""
        left = self._left()
        parts = [f"{self._done}/{self._total}", *([] if left is None else [f"about {duration(left)} left"])]
        return layout.bars(*self.console.size, [layout.Bar(self._what, self._done / max(self._total, 1), parts)])

    def show_question(self, what: str) -> None:
        """Show ``what`` beside the bar."""
        self._what = what

    def show_outcome(self, outcome: AnalysisOutcome) -> None:
        """Show the outcome of a question to a run."""
        self._done += not outcome.common
        position = f"[{self._done}/{self._total}] " if self.shows and not outcome.common else ""
        name = f"{position}{outcome.run}: {outcome.question.label}"
        if outcome.status == "failed":
            # One reason may hold for each question to a run.
            if self._is_new(outcome.run, outcome.reason):
                self.warn(f"{name}: {outcome.reason}")
            else:
                self.say(f"{name} failed, as above")
        elif outcome.answer is None:
            new = self._is_new(outcome.question.label, outcome.reason)
            self.say(f"{name} does not apply{f': {outcome.reason}' if new else ', as above'}")
        else:
            took = "there already" if outcome.status == "cached" else duration(outcome.seconds)
            left = self.display.format_left(self._left())
            self.say(f"{name}: {_numbers(outcome.answer.numbers)} ({took}{left})")

    def skip(self, outcome: AnalysisOutcome) -> None:
        """Count a question that is put to all runs together."""
        self._done += 1
        name = f"[{self._done}/{self._total}] {outcome.run}: {outcome.question.label}"
        self.say(f"{name} compares runs: it analyzes all of them together")

    def warn_unanswered(self, label: str, reason: str) -> None:
        """Warn of an analysis that no run answers, unless each run had a line about it."""
        if not self.shows:
            self.warn(f"{label} does not apply: {reason}")

    def _is_new(self, about: str, reason: str) -> bool:
        """Return whether this reason is shown for the first time."""
        new = (about, reason) not in self._reasons
        self._reasons.add((about, reason))
        return new

    def _left(self) -> float | None:
        spent = time.monotonic() - self._start_time
        return spent * (self._total - self._done) / self._done if 0 < self._done < self._total else None

    def show(self, answers: Sequence[AnalysisOutcome], outcomes: Outcomes | None) -> None:
        """Print the numbers of each answer by arm, their meaning and remarks."""
        if not self.shows:
            return
        for label in dict.fromkeys(one.question.label for one in answers if one.answer is not None):
            own = [one for one in answers if one.question.label == label and one.answer is not None]
            self.console.print()
            if outcomes is not None and any(not one.common for one in own):
                self._table(label, outcomes)
            else:
                question = own[0].question
                after = "" if question.mega_batch is None else f", after mega-batch {question.mega_batch}"
                self.console.print(Text(f"{label} ({question.spec}{after})", "bold"))
                self.console.print(Text(question.summary, "dim"))
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
    more = len(shown) - _MOST_IN_A_LINE
    return ", ".join(shown[:_MOST_IN_A_LINE]) + (f" and {more} more" if more > 0 else "") or "no numbers"


def _lines(answers: Sequence[AnalysisOutcome]) -> Iterator[tuple[str, str]]:
    for one in answers:
        if one.answer is not None:
            yield from _texts(one.answer.numbers)


def _meanings(answers: Sequence[AnalysisOutcome]) -> Iterator[str]:
    """What each number is, as the analysis says it."""
    for one in answers:
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
