"""Questions to the finished runs of a folder, one by one and together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from forgetkit.analysis.questions import Question, ask_group, ask_run, cached_answer, cached_group_answer
from forgetkit.analysis.run_evidence import AnalysisEnv, FinishedRun, RunEvidence
from forgetkit.contracts import Answer, ComparedRun, MultiRunAnalysis
from forgetkit.errors import ForgetkitError, InapplicableError, RecordError
from forgetkit.results.cell_store import CellStore
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.storage import RunDirectory

OutcomeStatus = Literal["answered", "cached", "does not apply", "failed"]


@dataclass(frozen=True)
class AnalysisOutcome:
    """The outcome of a question to a run, or to all runs of a grid together (``common``).

    ``cached``: the answer was stored already. ``reason`` says in a line why there is none.
    """

    run: str
    question: Question
    status: OutcomeStatus
    folder: Path
    answer: Answer | None = None
    reason: str = ""
    error: ForgetkitError | None = None
    seconds: float = 0.0
    common: bool = False


@dataclass(frozen=True)
class RunRef:
    """One or several finished runs: a name for messages, and the folder that keeps answers."""

    name: str
    folder: Path


def run_refs(store: CellStore, outcomes: Outcomes) -> tuple[RunRef, ...]:
    """The completed cells of a grid."""
    return tuple(RunRef(cell_label(outcomes, cell), store.directory(cell.digest)) for cell in _completed(outcomes))


def cell_label(outcomes: Outcomes, cell: Outcome) -> str:
    """``method=lure, seed 0``."""
    return ", ".join([*(f"{axis}={cell.arm[axis]}" for axis in outcomes.axes), f"seed {cell.seed}"])


def ask_each(
    runs: Sequence[RunRef],
    questions: Sequence[Question],
    env: AnalysisEnv,
    *,
    again: bool = False,
    about_to: Callable[[str], None] = lambda what: None,
) -> Iterator[AnalysisOutcome]:
    """Ask every question of every run, a run at a time; a question that fails does not stop the others.

    Stored answers to the same question are returned as they are, unless ``again``. ``about_to`` gets the name of each
    question before it is asked.
    """
    for ref in runs:
        finished = FinishedRun(RunDirectory(ref.folder), env)
        for question in questions:
            about_to(f"{ref.name}: {question.label}")
            cached = None if again else partial(cached_answer, question, finished)
            yield _outcome(ref, question, cached, partial(ask_run, question, finished))


def ask_together(
    store: CellStore,
    grid: str,
    outcomes: Outcomes,
    questions: Sequence[Question],
    env: AnalysisEnv,
    *,
    again: bool = False,
) -> Iterator[AnalysisOutcome]:
    """Ask each question that compares runs of all completed cells; the answers are stored beside the grid."""
    cells = _completed(outcomes)
    ref = RunRef(f"all {len(cells)} runs", store.answers_folder(grid))
    for question in questions:
        if isinstance(question.analysis, MultiRunAnalysis):
            yield ask_cells(store, cells, question, env, ref, again=again, common=True)


def ask_cells(
    store: CellStore,
    cells: Sequence[Outcome],
    question: Question,
    env: AnalysisEnv,
    ref: RunRef,
    *,
    without: str | None = None,
    again: bool = False,
    common: bool = False,
) -> AnalysisOutcome:
    """Ask one question of several cells together; the folder of ``ref`` keeps the answer.

    ``without`` is an axis that the analysis does not see.
    """
    digests = [cell.digest for cell in cells]

    def compared(cell: Outcome) -> ComparedRun:
        finished = FinishedRun(RunDirectory(store.directory(cell.digest)), env)
        evidence = RunEvidence.of(finished, question.mega_batch, question.seeds, lasting=False)
        arm = {axis: value for axis, value in cell.arm.items() if axis != without}
        return ComparedRun(arm, cell.seed, evidence, cached_answer(question, finished))

    def ask() -> Answer:
        return ask_group(question, [compared(cell) for cell in cells], ref.folder, digests)

    cached = None if again else partial(cached_group_answer, question, ref.folder, digests)
    return _outcome(ref, question, cached, ask, common=common)


def _outcome(
    ref: RunRef,
    question: Question,
    cached: Callable[[], Answer | None] | None,
    ask: Callable[[], Answer],
    *,
    common: bool = False,
) -> AnalysisOutcome:
    start_time = time.perf_counter()
    status: OutcomeStatus
    try:
        stored = cached() if cached else None
        answer = stored or ask()
    except RecordError:  # no further answer could be stored
        raise
    except ForgetkitError as error:
        status = "does not apply" if isinstance(error, InapplicableError) else "failed"
        return AnalysisOutcome(ref.name, question, status, ref.folder, reason=str(error), error=error, common=common)
    status, seconds = "cached" if stored else "answered", time.perf_counter() - start_time
    return AnalysisOutcome(ref.name, question, status, ref.folder, answer, seconds=seconds, common=common)


def _completed(outcomes: Outcomes) -> list[Outcome]:
    return [cell for cell in outcomes.cells if cell.status == "completed"]
