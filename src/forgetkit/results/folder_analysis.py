"""Analyses of a finished run, or of the runs of an ablation one by one and together, with pictures and a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from forgetkit.analysis import answers
from forgetkit.analysis.questions import Question, require_own_label
from forgetkit.analysis.run_evidence import AnalysisEnv
from forgetkit.contracts import MultiRunAnalysis
from forgetkit.errors import RunDirectoryError
from forgetkit.results import plots
from forgetkit.results.folder import ResultFolder
from forgetkit.results.outcome import Outcomes
from forgetkit.results.questions import AnalysisOutcome, RunRef, ask_each, ask_together, run_refs
from forgetkit.results.report import render_page
from forgetkit.results.table import make_table
from forgetkit.storage import write_output


class AnalysisView(Protocol):
    """Shows how the analyses of a folder go."""

    def say(self, text: str) -> None:
        """Show a line that is no warning."""

    def progress_context(self, total: int, /) -> AbstractContextManager[object]:
        """Return a context for the time in which ``total`` questions are put to runs."""

    def show_question(self, what: str, /) -> None:
        """Show which question is put next."""

    def show_outcome(self, outcome: AnalysisOutcome, /) -> None:
        """Show the outcome of a question."""

    def skip(self, outcome: AnalysisOutcome, /) -> None:
        """Count a question that compares runs, so that no single run answers it."""


@dataclass(frozen=True)
class FolderAnalysis:
    """The outcome of each question; ``outcomes`` hold the answers, and ``report`` is the page that was written."""

    folder: ResultFolder
    answers: tuple[AnalysisOutcome, ...]
    outcomes: Outcomes
    report: Path | None

    def content(self) -> dict[str, Any]:
        """Return what ``forgetkit analyze --json`` prints."""
        return {
            "directory": str(self.folder.path),
            "grid": self.folder.grid,
            "answers": [_answer_content(one) for one in self.answers],
            "report": None if self.report is None else str(self.report),
        }

    def unanswered(self) -> dict[str, str]:
        """Return the reason for each question that no run answered, by label."""
        answered = {one.question.label for one in self.answers if one.answer is not None}
        return {one.question.label: one.reason for one in self.answers if one.question.label not in answered}

    def failure_status(self) -> int:
        """Return 0 if no question failed, 1 if some have answers, else the highest exit status of the errors."""
        failed = [one.error.exit_status for one in self.answers if one.status == "failed" and one.error is not None]
        nothing = all(one.answer is None for one in self.answers)
        return (max(failed) if nothing else 1) if failed else 0


def analyze_folder(
    folder: ResultFolder,
    questions: Sequence[Question],
    env: AnalysisEnv,
    view: AnalysisView,
    *,
    again: bool = False,
    report: bool = True,
) -> FolderAnalysis:
    """Put questions to each run of a folder, and those that compare runs to all of them.

    Answers are stored in the directory of each run; a stored answer is taken unless ``again``. With ``report``, charts
    and ``report.html`` are written if there is an answer.
    """
    outcomes = folder.outcomes(with_answers=False)
    runs = _finished_runs(folder, outcomes)
    if not again:
        for question in questions:
            require_own_label(question, [run.folder for run in runs])
    found: list[AnalysisOutcome] = []
    with view.progress_context(len(runs) * len(questions)):
        for one in _ask(folder, runs, outcomes, questions, env, view, again=again):
            compares = one.status == "does not apply" and isinstance(one.question.analysis, MultiRunAnalysis)
            if folder.cells is not None and compares and not one.common:
                view.skip(one)
            else:
                view.show_outcome(one)
            found.append(one)
    outcomes = folder.outcomes()  # with the answers
    page = _write_report(folder, found, outcomes, view) if report else None
    return FolderAnalysis(folder, tuple(found), outcomes, page)


def _finished_runs(folder: ResultFolder, outcomes: Outcomes) -> tuple[RunRef, ...]:
    if folder.cells is None:
        return (RunRef(folder.path.resolve().name, folder.path),)
    found = run_refs(folder.cells, outcomes)
    if not found:
        raise RunDirectoryError(f"{folder.path} has no finished cell: forgetkit ablate runs them")
    return found


def _ask(
    folder: ResultFolder,
    runs: Sequence[RunRef],
    outcomes: Outcomes,
    questions: Sequence[Question],
    env: AnalysisEnv,
    view: AnalysisView,
    *,
    again: bool,
) -> Iterator[AnalysisOutcome]:
    yield from ask_each(runs, questions, env, again=again, about_to=view.show_question)
    if folder.cells is not None and folder.grid is not None:
        yield from ask_together(folder.cells, folder.grid, outcomes, questions, env, again=again)


def _write_report(
    folder: ResultFolder, found: Sequence[AnalysisOutcome], outcomes: Outcomes, view: AnalysisView
) -> Path | None:
    """Draw new answers beside them and write the page; None if there is no answer."""
    if all(one.answer is None for one in found):
        return None
    figures = None
    if plots.has_matplotlib():
        for one in found:
            if one.status == "answered":
                _draw_answer(one)
        figures = plots.draw_pictures(outcomes)
    else:
        view.say(f"without pictures: {plots.MISSING}")
    target = folder.path / "report.html"
    write_output(target, render_page(outcomes, make_table(outcomes), figures).encode())
    return target


def _draw_answer(one: AnalysisOutcome) -> None:
    if one.answer is None:
        return
    beside = answers.answers_folder(one.folder)
    for old in beside.glob(f"{one.question.label}.*.svg"):  # of another answer
        old.unlink()
    for name, figure in plots.draw_answer(one.question.label, one.answer, common=one.common).items():
        plots.save(figure, beside / f"{name}.svg")


def _answer_content(one: AnalysisOutcome) -> dict[str, Any]:
    numbers = {} if one.answer is None else one.answer.numbers
    return {
        "run": one.run,
        "common": one.common,
        "label": one.question.label,
        "analysis": one.question.spec,
        "status": one.status,
        "reason": one.reason,
        "numbers": {key: getattr(value, "value", value) for key, value in numbers.items()},
        "remarks": [] if one.answer is None else list(one.answer.remarks),
        "seconds": one.seconds,
    }
