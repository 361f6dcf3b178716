"""Questions to the finished runs of a folder, one by one and together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forgetkit.analysis.questions import Question, ask_group, ask_run, cached_answer, cached_group_answer
from forgetkit.analysis.run_evidence import AnalysisEnv, FinishedRun, RunEvidence
from forgetkit.contracts import Answer, ComparedRun, MultiRunAnalysis
from forgetkit.errors import ForgetkitError, InapplicableError, RecordError
from forgetkit.results.cell_store import CellStore
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.storage import RunDirectory

OutcomeStatus = Literal["answered", "known", "does not apply", "failed"]


@dataclass(frozen=True)
class AnalysisOutcome:
    """What became of a question to a run, or to all runs of a grid together (``common``).

    ``known``: the answer was there already. ``reason`` says in a line why there is none.
    """

    run: str
    question: Question
    became: OutcomeStatus
    folder: Path
    answer: Answer | None = None
    reason: str = ""
    error: ForgetkitError | None = None
    seconds: float = 0.0
    common: bool = False


@dataclass(frozen=True)
class RunRef:
    """A finished run: what it is called here, and its directory."""

    name: str
    folder: Path


def run_refs(pool: CellStore, outcomes: Outcomes) -> tuple[RunRef, ...]:
    """The cells of a grid that are completed."""
    return tuple(RunRef(cell_label(outcomes, cell), pool.directory(cell.digest)) for cell in _completed_cells(outcomes))


def cell_label(outcomes: Outcomes, cell: Outcome) -> str:
    """``method=lure, seed 0``."""
    return ", ".join([*(f"{axis}={cell.arm[axis]}" for axis in outcomes.axes), f"seed {cell.seed}"])


def ask_each(
    runs: Sequence[RunRef],
    questions: Sequence[Question],
    means: AnalysisEnv,
    *,
    again: bool = False,
    about_to: Callable[[str], None] = lambda what: None,
) -> Iterator[AnalysisOutcome]:
    """Every question to every run, a run at a time; what cannot be answered is told, and the others go on.

    Answers that are there to the same question are taken as they are, unless all are asked ``again``. ``about_to`` is
    told of each question before it is put.
    """
    for place in runs:
        finished = FinishedRun(RunDirectory(place.folder), means)
        for question in questions:
            about_to(f"{place.name}: {question.label}")
            yield _outcome_of(place, question, finished, again=again)


def ask_together(
    pool: CellStore,
    grid: str,
    outcomes: Outcomes,
    questions: Sequence[Question],
    means: AnalysisEnv,
    *,
    again: bool = False,
) -> Iterator[AnalysisOutcome]:
    """Each question that compares runs, to all completed cells of a grid; its answers are kept beside the grid."""
    cells = _completed_cells(outcomes)
    folder = pool.answers_folder(grid)
    for question in questions:
        if not isinstance(question.analysis, MultiRunAnalysis):
            continue
        began = time.perf_counter()
        digests = [cell.digest for cell in cells]
        name = f"all {len(cells)} runs"
        try:
            asked = [_compared_run(pool, cell, question, means) for cell in cells]
            known = None if again else cached_group_answer(question, folder, digests)
            answer = known or ask_group(question, asked, folder, digests)
            became: OutcomeStatus = "known" if known else "answered"
            yield AnalysisOutcome(
                name, question, became, folder, answer, seconds=time.perf_counter() - began, common=True
            )
        except RecordError:
            raise
        except ForgetkitError as error:
            yield _unanswered(name, question, folder, error, common=True)


def _outcome_of(place: RunRef, question: Question, finished: FinishedRun, *, again: bool) -> AnalysisOutcome:
    began = time.perf_counter()
    try:
        known = None if again else cached_answer(question, finished)
        answer = known or ask_run(question, finished)
    except RecordError:  # nothing more can be kept
        raise
    except ForgetkitError as error:
        return _unanswered(place.name, question, place.folder, error)
    became: OutcomeStatus = "known" if known else "answered"
    return AnalysisOutcome(place.name, question, became, place.folder, answer, seconds=time.perf_counter() - began)


def _unanswered(
    name: str, question: Question, folder: Path, error: ForgetkitError, *, common: bool = False
) -> AnalysisOutcome:
    became: OutcomeStatus = "does not apply" if isinstance(error, InapplicableError) else "failed"
    return AnalysisOutcome(name, question, became, folder, reason=str(error), error=error, common=common)


def _compared_run(pool: CellStore, cell: Outcome, question: Question, means: AnalysisEnv) -> ComparedRun:
    """A cell as a comparing analysis sees it; its model is loaded when it is asked for, and each time anew."""
    finished = FinishedRun(RunDirectory(pool.directory(cell.digest)), means)
    evidence = RunEvidence.of(finished, question.mega_batch, question.seeds, lasting=False)
    return ComparedRun(cell.arm, cell.seed, evidence, cached_answer(question, finished))


def _completed_cells(outcomes: Outcomes) -> list[Outcome]:
    return [cell for cell in outcomes.cells if cell.status == "completed"]
