"""The analyses of a figure's runs. Each run stores its answers, so that no question is answered twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from forgetkit.analysis.questions import Question
from forgetkit.analysis.run_evidence import AnalysisEnv
from forgetkit.paper.scaled_table import ScaledTable
from forgetkit.results import questions
from forgetkit.results.cell_store import CellStore
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.questions import AnalysisOutcome, RunRef


def run_analyses(
    scaled: ScaledTable, store: CellStore, grid: str, outcomes: Outcomes, env: AnalysisEnv
) -> Iterator[AnalysisOutcome]:
    """Ask the questions of a figure of each of its finished runs once, and yield each outcome.

    ``grid`` is the name of the runs in their folder. A question that fails does not stop the others. Raises
    ``OptionError`` if an analysis does not exist.
    """
    asked: dict[str, list[Question]] = {"run": [], "pair": [], "grid": []}
    for label, query in scaled.queries.items():
        question = Question.of(env.components, query.analysis, label=label, mega_batch=query.mega_batch)
        asked[query.about].append(question)
    runs = FigureRuns(scaled, outcomes)
    refs = [RunRef(questions.cell_label(outcomes, cell), store.directory(cell.digest)) for cell in runs.cells]
    if asked["run"]:
        yield from questions.ask_each(refs, asked["run"], env)
    for question in asked["pair"]:
        for cell, ref in zip(runs.cells, refs, strict=True):
            base = runs.baseline(cell)
            if base is not None and base.digest != cell.digest:
                yield questions.ask_cells(store, (base, cell), question, env, ref)
    for question in asked["grid"]:
        ref = RunRef(f"all {len(runs.cells)} runs", store.answers_folder(grid))
        yield questions.ask_cells(store, runs.cells, question, env, ref, without=scaled.table.part)


@dataclass(frozen=True)
class FigureRuns:
    """The finished runs of a figure, each once, however many rows show it."""

    scaled: ScaledTable
    outcomes: Outcomes

    @cached_property
    def cells(self) -> tuple[Outcome, ...]:
        """In the order of the grid."""
        once = {cell.digest: cell for cell in reversed(self.outcomes.cells) if cell.status == "completed"}
        return tuple(reversed(once.values()))

    def baseline(self, cell: Outcome) -> Outcome | None:
        """The completed baseline run of the same part and seed."""
        arm = {**cell.arm, self.scaled.table.arm: self.scaled.table.baseline}
        same = (other for other in self.outcomes.cells if other.arm == arm and other.seed == cell.seed)
        return next((other for other in same if other.status == "completed"), None)
