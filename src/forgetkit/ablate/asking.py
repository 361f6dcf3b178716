"""Questions to the finished runs of a folder, one by one and together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forgetkit.ablate.outcome import Outcome, Outcomes
from forgetkit.ablate.pool import Pool
from forgetkit.analysis import asking
from forgetkit.analysis.asking import Question
from forgetkit.analysis.run import Finished, Means, RunEvidence
from forgetkit.contracts import Answer, Asked, Comparing
from forgetkit.errors import DoesNotApplyError, ForgetkitError, RecordError
from forgetkit.record import RunDirectory

Became = Literal["answered", "known", "does not apply", "failed"]


@dataclass(frozen=True)
class Told:
    """What became of a question to a run, or to all runs of a grid together (``common``).

    ``known``: the answer was there already. ``reason`` says in a line why there is none.
    """

    run: str
    question: Question
    became: Became
    folder: Path
    answer: Answer | None = None
    reason: str = ""
    error: ForgetkitError | None = None
    seconds: float = 0.0
    common: bool = False


@dataclass(frozen=True)
class Place:
    """A finished run: what it is called here, and its directory."""

    name: str
    folder: Path


def places(pool: Pool, outcomes: Outcomes) -> tuple[Place, ...]:
    """The cells of a grid that are completed."""
    return tuple(Place(named(outcomes, cell), pool.directory(cell.digest)) for cell in _completed(outcomes))


def named(outcomes: Outcomes, cell: Outcome) -> str:
    """``method=lure, seed 0``."""
    return ", ".join([*(f"{axis}={cell.arm[axis]}" for axis in outcomes.axes), f"seed {cell.seed}"])


def ask_each(
    runs: Sequence[Place],
    questions: Sequence[Question],
    means: Means,
    *,
    again: bool = False,
    about_to: Callable[[str], None] = lambda what: None,
) -> Iterator[Told]:
    """Every question to every run, a run at a time; what cannot be answered is told, and the others go on.

    Answers that are there to the same question are taken as they are, unless all are asked ``again``. ``about_to`` is
    told of each question before it is put.
    """
    for place in runs:
        finished = Finished(RunDirectory(place.folder), means)
        for question in questions:
            about_to(f"{place.name}: {question.label}")
            yield _told(place, question, finished, again=again)


def ask_together(
    pool: Pool, grid: str, outcomes: Outcomes, questions: Sequence[Question], means: Means, *, again: bool = False
) -> Iterator[Told]:
    """Each question that compares runs, to all completed cells of a grid; its answers are kept beside the grid."""
    cells = _completed(outcomes)
    folder = pool.asked(grid)
    for question in questions:
        if not isinstance(question.analysis, Comparing):
            continue
        began = time.perf_counter()
        digests = [cell.digest for cell in cells]
        name = f"all {len(cells)} runs"
        try:
            asked = [_asked(pool, cell, question, means) for cell in cells]
            known = None if again else asking.known_together(question, folder, digests)
            answer = known or asking.ask_together(question, asked, folder, digests)
            became: Became = "known" if known else "answered"
            yield Told(name, question, became, folder, answer, seconds=time.perf_counter() - began, common=True)
        except RecordError:
            raise
        except ForgetkitError as error:
            yield _without(name, question, folder, error, common=True)


def _told(place: Place, question: Question, finished: Finished, *, again: bool) -> Told:
    began = time.perf_counter()
    try:
        known = None if again else asking.known(question, finished)
        answer = known or asking.ask_run(question, finished)
    except RecordError:  # nothing more can be kept
        raise
    except ForgetkitError as error:
        return _without(place.name, question, place.folder, error)
    became: Became = "known" if known else "answered"
    return Told(place.name, question, became, place.folder, answer, seconds=time.perf_counter() - began)


def _without(name: str, question: Question, folder: Path, error: ForgetkitError, *, common: bool = False) -> Told:
    became: Became = "does not apply" if isinstance(error, DoesNotApplyError) else "failed"
    return Told(name, question, became, folder, reason=str(error), error=error, common=common)


def _asked(pool: Pool, cell: Outcome, question: Question, means: Means) -> Asked:
    """A cell as a comparing analysis sees it; its model is loaded when it is asked for, and each time anew."""
    finished = Finished(RunDirectory(pool.directory(cell.digest)), means)
    evidence = RunEvidence.of(finished, question.mega_batch, question.seeds, lasting=False)
    return Asked(cell.arm, cell.seed, evidence, asking.known(question, finished))


def _completed(outcomes: Outcomes) -> list[Outcome]:
    return [cell for cell in outcomes.cells if cell.status == "completed"]
