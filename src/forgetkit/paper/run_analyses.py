"""The runs of a figure, asked by its analyses; each run keeps the answers, so that the same is asked once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from forgetkit.analysis.questions import Question, ask_group, cached_group_answer
from forgetkit.analysis.run_evidence import AnalysisEnv, FinishedRun, RunEvidence
from forgetkit.contracts import ComparedRun
from forgetkit.errors import ForgetkitError
from forgetkit.paper.scaled_table import ScaledTable
from forgetkit.results import questions as folders
from forgetkit.results.cell_store import CellStore
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.questions import AnalysisOutcome
from forgetkit.storage import RunDirectory


def run_analyses(
    scaled: ScaledTable, store: CellStore, grid: str, outcomes: Outcomes, env: AnalysisEnv
) -> Iterator[AnalysisOutcome]:
    """Put the questions of a figure to each of its finished runs once, and say what became of each.

    ``grid`` is the name of the runs in their folder. What one run cannot answer does not keep others from it.
    ``OptionError`` where a question is none.
    """
    questions: dict[str, list[Question]] = {"run": [], "pair": [], "grid": []}
    for label, query in scaled.queries.items():
        question = Question.of(env.offers, query.analysis, label=label, mega_batch=query.mega_batch)
        questions[query.about].append(question)
    runs = FigureRuns(scaled, store, outcomes, env)
    places = [runs.place(cell) for cell in runs.cells]
    if questions["run"]:
        yield from folders.ask_each(places, questions["run"], env)
    for question in questions["pair"]:
        for cell, place in zip(runs.cells, places, strict=True):
            base = runs.baseline(cell)
            if base is not None and base.digest != cell.digest:
                yield runs.together(question, (base, cell), place)
    for question in questions["grid"]:
        place = folders.RunRef(f"all {len(runs.cells)} runs", store.answers_folder(grid))
        yield runs.together(question, runs.cells, place, without=scaled.table.part)


@dataclass(frozen=True)
class FigureRuns:
    """The finished runs of a figure, each once, whatever the rows that show it."""

    scaled: ScaledTable
    store: CellStore
    outcomes: Outcomes
    env: AnalysisEnv

    @cached_property
    def cells(self) -> tuple[Outcome, ...]:
        """In the order of the grid."""
        once = {cell.digest: cell for cell in reversed(self.outcomes.cells) if cell.status == "completed"}
        return tuple(reversed(once.values()))

    def place(self, cell: Outcome) -> folders.RunRef:
        """What a run is called, and where it is."""
        return folders.RunRef(folders.cell_label(self.outcomes, cell), self.store.directory(cell.digest))

    def baseline(self, cell: Outcome) -> Outcome | None:
        """The run that one is compared with: of its part and seed."""
        arm = {**cell.arm, self.scaled.table.arm: self.scaled.table.baseline}
        same = (other for other in self.outcomes.cells if other.arm == arm and other.seed == cell.seed)
        return next((other for other in same if other.status == "completed"), None)

    def together(
        self, question: Question, cells: Sequence[Outcome], place: folders.RunRef, without: str | None = None
    ) -> AnalysisOutcome:
        """Of several runs; the folder of ``place`` keeps the answer. ``without``: an axis that tells no arms apart."""
        digests = [cell.digest for cell in cells]
        began = time.perf_counter()
        try:
            known = cached_group_answer(question, place.folder, digests)
            if known is not None:
                return AnalysisOutcome(place.name, question, "known", place.folder, known)
            asked = [
                ComparedRun({axis: value for axis, value in cell.arm.items() if axis != without}, cell.seed, evidence)
                for cell in cells
                for evidence in [self._evidence(question, cell)]
            ]
            answer = ask_group(question, asked, place.folder, digests)
        except ForgetkitError as error:
            return AnalysisOutcome(place.name, question, "failed", place.folder, reason=str(error), error=error)
        return AnalysisOutcome(
            place.name, question, "answered", place.folder, answer, seconds=time.perf_counter() - began
        )

    def _evidence(self, question: Question, cell: Outcome) -> RunEvidence:
        finished = FinishedRun(RunDirectory(self.store.directory(cell.digest)), self.env)
        return RunEvidence.of(finished, question.mega_batch, question.seeds, lasting=False)
