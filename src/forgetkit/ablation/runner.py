"""The run of an ablation: missing and failed cells run, and the outcomes of all are gathered."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

from forgetkit.ablation.plan import AblationPlan, run_tasks
from forgetkit.ablation.progress import ProgressReader
from forgetkit.ablation.worker import CellResult, Task
from forgetkit.config.machine import cache_folder
from forgetkit.contracts import Executor, Keep, Observer
from forgetkit.errors import OptionError
from forgetkit.registry.registry import Registry
from forgetkit.results.cell_store import CellStatus
from forgetkit.results.outcome import Outcomes

_log = logging.getLogger("forgetkit")


@dataclass(frozen=True)
class ExecutionOptions:
    """How the cells of a grid run.

    ``keep`` says which models a finished cell keeps. None: new cells keep the last one, finished cells what they have.
    """

    components: Registry
    executor: Executor
    keep: Keep | None = None
    plugins: tuple[Path, ...] = ()
    without: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        components: Registry,
        *,
        jobs: int | None = None,
        executor: str | Executor | None = None,
        keep: Any = None,
        plugins: Sequence[Path] = (),
        without: Sequence[str] = (),
    ) -> ExecutionOptions:
        """Check the options, and build the executor; ``jobs`` is short for ``local:jobs=N``."""
        if jobs is not None and executor is not None:
            raise OptionError(f"--jobs {jobs} is short for --executor local:jobs={jobs}: give one")
        if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool)):
            raise OptionError(f"--jobs {jobs}: a whole number is needed")
        if jobs is not None and jobs < 1:
            raise OptionError(f"--jobs {jobs}: at least one is needed")
        if keep not in (None, *get_args(Keep)):
            raise OptionError(f"--keep {keep}: write all, last or none")
        spec = executor or f"local:jobs={1 if jobs is None else jobs}"
        built: Executor = components.make("executors", spec)[1]
        return cls(components, built, keep, tuple(plugins), tuple(without))


class AblationView(Protocol):
    """Shows how an ablation goes."""

    def say(self, text: str) -> None:
        """Show a line that is no warning."""

    def warn(self, message: str) -> None:
        """Show a warning."""

    def loading(self) -> AbstractContextManager[Sequence[Observer]]:
        """Return a context for the time in which data is loaded, with the observers of that."""

    def progress_context(self, ablation: AblationPlan, progress: ProgressReader, /) -> AbstractContextManager[None]:
        """Return a context for the time in which cells run."""

    def cell_finished(self, name: str, task: Task, result: CellResult, numbers: Mapping[str, Any], /) -> None:
        """Show the result of a finished cell, with its ``numbers``."""


class AblationLog:
    """Logs warnings and cells that failed, and shows nothing else."""

    def say(self, text: str) -> None:
        """Ignore the line."""

    def warn(self, message: str) -> None:
        """Log a warning."""
        _log.warning("%s", message)

    def loading(self) -> AbstractContextManager[Sequence[Observer]]:
        """Show no progress."""
        return nullcontext(())

    def progress_context(self, ablation: AblationPlan, progress: ProgressReader) -> AbstractContextManager[None]:
        """Show no progress."""
        return nullcontext()

    def cell_finished(self, name: str, task: Task, result: CellResult, numbers: Mapping[str, Any]) -> None:
        """Log a cell that is not completed."""
        failure = result.failure(name)
        if failure is not None:
            self.warn(failure)


def run_ablation(
    ablation: AblationPlan, execution: ExecutionOptions, view: AblationView, *, command: str = ""
) -> Outcomes:
    """Run the cells that are missing or failed, and return the outcomes of all.

    ``command`` is recorded as the line that runs the grid.

    Raises ``ConfigError`` if the name of the grid is another's, ``DataError`` if the data is not that of finished
    cells, and ``RecordError`` if the folder cannot be written to.
    """
    statuses, name = ablation.statuses(), ablation.grid_name()
    for remark in dict.fromkeys(state.remark for state in statuses.values() if state.remark):
        view.warn(remark)
    for remark in ablation.version_warnings(statuses):
        view.warn(remark)
    positions = ablation.to_run(statuses)
    with view.loading() as observers:
        augment = ablation.require_data(positions, statuses, observers, cache_folder())
    view.say(status_line(ablation, statuses))
    report_augment(view, augment)
    ablation.store.write_manifest(name, ablation.manifest(command))
    ablation.remove_stale(statuses, execution.keep)
    tasks = ablation.tasks(
        statuses, keep=execution.keep or "last", plugins=execution.plugins, without=execution.without
    )
    names = {ablation.digests[position]: str(ablation.cells[position]) for position in positions}
    progress = ProgressReader(ablation.store, [task.digest for task in tasks])
    with view.progress_context(ablation, progress), closing(run_tasks(tasks, execution.executor)) as answers:
        for task, end in answers:
            progress.end(task.digest)
            result = ablation.store.find(task.digest).result if end.status == "completed" else None
            view.cell_finished(names[task.digest], task, end, result or {})
    return ablation.outcomes(command)


def status_line(ablation: AblationPlan, statuses: Mapping[str, CellStatus]) -> str:
    """Return how many cells a grid has, how many are finished, and how many are to run."""
    grid, positions = ablation.grid, ablation.to_run(statuses)
    arms, seeds = len(grid.combinations()), len(grid.seeds)
    finished = sum(state.status in ("completed", "diverged") for state in statuses.values())
    cells = f"{len(ablation.cells)} cells: {arms} arm{'s' * (arms > 1)} at {seeds} seed{'s' * (seeds > 1)}"
    same = len(ablation.cells) - len(statuses)
    repeated = (
        f", of which {same} {'duplicates another cell' if same == 1 else 'duplicate other cells'}" if same else ""
    )
    started = sum(ablation.store.directory(ablation.digests[position]).exists() for position in positions)
    rest = f"{len(positions)} to run" + (f" ({started} of them started)" if started else "")
    return f"{grid.title}: {cells}{repeated}; {finished} there already, {rest}, in {ablation.store.path}"


def report_augment(view: AblationView, augment: Mapping[str, str]) -> None:
    """Show what ``auto`` augmentation resolves to, by data set."""
    for dataset, chosen in augment.items():
        view.say(f"augment {chosen} (auto) for {dataset}")
