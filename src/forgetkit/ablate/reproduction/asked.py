"""The runs of a figure, asked by its analyses; each run keeps the answers, so that the same is asked once."""

from __future__ import annotations

from collections.abc import Iterator

from forgetkit.ablate import asking as folders
from forgetkit.ablate.asking import Told
from forgetkit.ablate.outcome import Outcome, Outcomes
from forgetkit.ablate.pool import Pool
from forgetkit.ablate.reproduction.setting import Setting
from forgetkit.analysis import asking
from forgetkit.analysis.asking import Question
from forgetkit.analysis.run import Finished, Means, RunEvidence
from forgetkit.contracts import Asked
from forgetkit.errors import ForgetkitError
from forgetkit.record import RunDirectory


def ask(setting: Setting, pool: Pool, outcomes: Outcomes, means: Means) -> Iterator[Told]:
    """Put the questions of a figure to each of its finished runs once, and say what became of each.

    What one run cannot answer does not keep others from it. ``OptionError`` where a question is none.
    """
    alone: list[Question] = []
    paired: list[Question] = []
    for label, query in setting.queries.items():
        question = Question.of(means.offers, query.analysis, label=label, mega_batch=query.mega_batch)
        (paired if query.with_baseline else alone).append(question)
    once = {cell.digest: cell for cell in reversed(outcomes.cells) if cell.status == "completed"}
    cells = tuple(reversed(once.values()))
    places = [folders.Place(folders.named(outcomes, cell), pool.directory(cell.digest)) for cell in cells]
    if alone:
        yield from folders.ask_each(places, alone, means)
    for question in paired:
        for cell, place in zip(cells, places, strict=True):
            base = _baseline(setting, outcomes, cell)
            if base is not None and base.digest != cell.digest:
                yield _together(question, pool, (base, cell), place, means)


def _baseline(setting: Setting, outcomes: Outcomes, cell: Outcome) -> Outcome | None:
    """The run that one is compared with: of its part and seed."""
    arm = {**cell.arm, setting.table.arm: setting.table.baseline}
    same = (other for other in outcomes.cells if other.arm == arm and other.seed == cell.seed)
    return next((other for other in same if other.status == "completed"), None)


def _together(
    question: Question, pool: Pool, both: tuple[Outcome, Outcome], place: folders.Place, means: Means
) -> Told:
    """Of two runs; the second keeps the answer."""
    digests = [cell.digest for cell in both]
    try:
        known = asking.known_together(question, place.folder, digests)
        if known is not None:
            return Told(place.name, question, "known", place.folder, known)
        cells = [
            Asked(cell.arm, cell.seed, RunEvidence.of(_finished(pool, cell, means), None, question.seeds))
            for cell in both
        ]
        answer = asking.ask_together(question, cells, place.folder, digests)
    except ForgetkitError as error:
        return Told(place.name, question, "failed", place.folder, reason=str(error), error=error)
    return Told(place.name, question, "answered", place.folder, answer)


def _finished(pool: Pool, cell: Outcome, means: Means) -> Finished:
    return Finished(RunDirectory(pool.directory(cell.digest)), means)
