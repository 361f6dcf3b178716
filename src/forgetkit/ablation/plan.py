"""The plan of an ablation: a grid in a folder, of whose cells an executor runs those that are not finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forgetkit.ablation.equal_compute import match_samples, on_cpu
from forgetkit.ablation.grid import Grid, GridCell, plan_cells
from forgetkit.ablation.precision import share_precision
from forgetkit.ablation.worker import CellResult, Task, run_cell
from forgetkit.config import KIND_OF, REPEATABLE, Plan, name_of
from forgetkit.config.machine import cache_folder
from forgetkit.contracts import Executor, Keep, Observer, WorkerLost, component_name
from forgetkit.engine.context import versions
from forgetkit.engine.events import EventDispatcher
from forgetkit.engine.run_data import RunData
from forgetkit.errors import ConfigError, DataError, OptionError, RunDirectoryError
from forgetkit.registry.registry import Registry
from forgetkit.results.cell_store import CellStatus, CellStore, GridManifest
from forgetkit.results.outcome import Outcomes
from forgetkit.storage import RunDirectory
from forgetkit.system.torch_settings import each_restored

_LONGEST_NAME = 80
_STOPPED = 130
"""Exit status of a worker that stopped on request, after a checkpoint."""


@dataclass(frozen=True, eq=False)
class AblationPlan:
    """The cells of a grid, each with its plan and digest, and the folder of their records.

    Cells with the same resolved options share a digest and run once. ``stem`` begins the name of the grid; ``name`` is
    the whole name if one was chosen.
    """

    grid: Grid
    store: CellStore
    stem: str
    name: str | None
    cells: tuple[GridCell, ...]
    plans: tuple[Plan, ...]
    digests: tuple[str, ...]

    @classmethod
    def of(
        cls,
        grid: Grid,
        folder: Path,
        components: Registry,
        *,
        name: str | None = None,
        stem: str | None = None,
        match: str | None = None,
    ) -> AblationPlan:
        """Plan the cells, with ``match="samples"`` at equal numbers of training samples; write nothing.

        Raises ``ConfigError`` if options of a cell contradict each other, or if ``name`` is no plain name.
        """
        if name is not None and not _is_plain(name):
            raise ConfigError(f"--name {name}: must be a plain name, without slashes, of {_LONGEST_NAME} bytes at most")
        pairs = plan_cells(grid.cells(), components)
        plan = cls(grid, CellStore(folder), stem or _file_stem(grid.title), name, *_columns(pairs, components))
        if match is None:
            return plan
        if match != "samples":
            raise OptionError(f"--match {match}: there is --match samples")
        return plan.with_equal_samples(components, cache_folder())

    def with_equal_samples(self, components: Registry, cache: Path) -> AblationPlan:
        """Return the same cells at equal numbers of training samples."""
        pairs = plan_cells(match_samples(self.plans, self.cells, components, cache), components)
        cells, plans, digests = _columns(pairs, components)
        grid = replace(self.grid, title=f"{self.grid.title}, at equal numbers of training samples")
        return replace(self, grid=grid, stem=f"{self.stem}-equal-samples", cells=cells, plans=plans, digests=digests)

    def require_data(
        self, positions: Iterable[int], statuses: Mapping[str, CellStatus], observers: Sequence[Observer], cache: Path
    ) -> dict[str, str]:
        """Load each data set once, so that a missing one is an error before a cell runs, and one process decodes it.

        Logs remarks of the source and findings of the audit. Returns what ``auto`` augmentation resolves to, by data
        set. Raises ``DataError`` if finished cells had other data: one table would show both.
        """
        plans = [self.plans[position] for position in positions]
        one_of_each = {plan.config.dataset: plan for plan in reversed(plans)}
        augment: dict[str, str] = {}
        for dataset, plan in one_of_each.items():
            run_data = RunData.prepare(on_cpu(plan), EventDispatcher(observers), cache)
            findings = run_data.findings(log=True)
            for other in _distinct_partitions([other for other in plans if other.config.dataset == dataset]):
                with suppress(ConfigError):  # the cell itself reports it
                    cut = RunData.prepare(on_cpu(other), EventDispatcher(()), cache, data=run_data.clean)
                    new = [finding for finding in cut.audit_classes() if finding not in findings]
                    run_data.warn(new)
                    findings += new
            if any(other.config.augment == "auto" for other in plans if other.config.dataset == dataset):
                augment[dataset] = run_data.data.augment
            for other, digest in zip(self.plans, self.digests, strict=True):
                if other.config.dataset == dataset and statuses[digest].status == "completed":
                    self._require_same_data(other, digest, cache)
                    break  # one finished cell is enough
        return augment

    def _require_same_data(self, plan: Plan, digest: str, cache: Path) -> None:
        try:
            recorded = RunDirectory(self.store.directory(digest)).manifest.get("data")
        except RunDirectoryError:  # damaged: nothing to compare
            return
        if recorded != RunData.prepare(on_cpu(plan), EventDispatcher(()), cache).facts():
            raise DataError(
                f"{plan.config.dataset} is not what the cells in {self.store.path} were made from (other samples or "
                "labels): put it back, or use another --out"
            )

    def statuses(self) -> dict[str, CellStatus]:
        """Return the status of each cell, by digest."""
        return {digest: self.store.find(digest) for digest in self.digests}

    def version_warnings(self, statuses: Mapping[str, CellStatus]) -> Iterator[str]:
        """Yield a line for each library of which finished cells had another version."""
        now = versions(self.plans[0])
        for what in ("forgetkit", "torch"):
            then = [result["versions"].get(what) for one in statuses.values() if (result := one.result) is not None]
            others = [version for version in then if version != now[what]]
            if others:
                made = f"{len(others)} of {len(statuses)} cells were made with {what} {', '.join(sorted(set(others)))}"
                yield f"{made}, not {now[what]}: their numbers may differ"

    def to_run(self, statuses: Mapping[str, CellStatus]) -> tuple[int, ...]:
        """Return the positions of the cells to run: missing and failed ones, each digest once."""
        first = {digest: position for position, digest in reversed(list(enumerate(self.digests)))}
        return tuple(
            position
            for position, digest in enumerate(self.digests)
            if first[digest] == position and statuses[digest].status in ("missing", "failed")
        )

    def manifest(self, command: str = "") -> GridManifest:
        """Return the manifest of the grid, with the ``command`` that runs it."""
        cells = tuple(
            {"arm": dict(cell.arm), "seed": cell.seed, "digest": digest}
            for cell, digest in zip(self.cells, self.digests, strict=True)
        )
        return GridManifest(self.grid.title, tuple(self.grid.axes), cells, self.grid.reference(), command)

    def grid_name(self) -> str:
        """Return the name of the grid in its folder; ``ConfigError`` if another grid has the chosen one."""
        if self.name is None:
            return self.store.name_for(self.manifest(), self.stem)
        if not self.store.name_available(self.name, self.manifest()):
            raise ConfigError(
                f"--name {self.name}: in {self.store.path} that is the name of a grid with other cells: choose another"
            )
        return self.name

    def tasks(
        self,
        statuses: Mapping[str, CellStatus],
        *,
        keep: Keep = "last",
        plugins: Sequence[Path] = (),
        without: Sequence[str] = (),
    ) -> tuple[Task, ...]:
        """Return the tasks for an executor, one for each cell to run.

        A checkpoint is written after each epoch unless the options say how often, so that a killed worker loses no more
        than that epoch.
        """
        files = tuple(str(file.absolute()) for file in plugins)
        precisions = share_precision(self.plans, cache_folder())
        return tuple(
            Task(
                folder=str(self.store.path.absolute()),
                digest=self.digests[position],
                options={
                    **_checkpoint_each_epoch(self.cells[position].options),
                    **precisions[position],
                    "keep_models": keep,
                },
                plugins=files,
                without=tuple(without),
                keep=keep,
                failed_at=statuses[self.digests[position]].failed_at,
            )
            for position in self.to_run(statuses)
        )

    def remove_stale(self, statuses: Mapping[str, CellStatus], keep: Keep | None) -> None:
        """Remove files that finished cells do not need, and half-written ones.

        Models are removed as ``keep`` says; None: only those that a killed process did not remove.
        """
        self.store.sweep()
        for digest, state in statuses.items():
            if state.status in ("completed", "diverged") and (keep is not None or self.store.has_stale(digest)):
                self.store.remove_stale(digest, keep or "last")

    def outcomes(self, command: str = "") -> Outcomes:
        """Return the outcomes of the cells."""
        return self.store.gather(self.manifest(command))


def run_tasks(tasks: Sequence[Task], executor: Executor) -> Generator[tuple[Task, CellResult], None, None]:
    """Run the tasks, and yield each with its result as it ends.

    Cells that other processes run are waited for at the end. If a worker is lost, its task fails and the others
    continue. Raises ``RecordError`` if the folder cannot be written to.
    """
    in_use: list[Task] = []
    with closing(_executor_answers(tasks, executor)) as answers:
        for task, answer in answers:
            if answer is None:
                in_use.append(replace(task, wait_if_locked=True))
            else:
                yield task, answer
    if in_use:
        yield from run_tasks(in_use, executor)


def _executor_answers(
    tasks: Sequence[Task], executor: Executor
) -> Generator[tuple[Task, CellResult | None], None, None]:
    executor_name = f"the executor {component_name(executor)}"
    for position, answer in each_restored(executor_name, executor.execute(run_cell, tasks)):
        task = tasks[position]
        yield task, _lost_result(task, answer) if isinstance(answer, WorkerLost) else answer


def _lost_result(task: Task, lost: WorkerLost) -> CellResult:
    store = CellStore(Path(task.folder))
    found = store.find(task.digest)
    if found.status == "completed" or found.failed_at not in (0, task.failed_at):
        return CellResult(found.status, found.reason)  # recorded before the worker was lost
    if lost.status == _STOPPED:
        return CellResult("missing", "stopped; the same command resumes it")
    store.fail(task.digest, "failed", lost.reason)
    return CellResult("failed", lost.reason)


def _checkpoint_each_epoch(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add a checkpoint after each epoch, unless the options say how often."""
    return (
        options if options.keys() & {"checkpoint_seconds", "checkpoint_epochs"} else {**options, "checkpoint_epochs": 1}
    )


def _distinct_partitions(plans: Sequence[Plan]) -> Iterable[Plan]:
    """Return one plan for each way to cut the samples into mega-batches, whatever the seed."""
    cuts = {(p.config.mega_batches, p.config.split, p.config.shots, p.config.val_fraction): p for p in reversed(plans)}
    return reversed(cuts.values())


def _columns(
    pairs: Sequence[tuple[GridCell, Plan]], components: Registry
) -> tuple[tuple[GridCell, ...], tuple[Plan, ...], tuple[str, ...]]:
    cells, plans = zip(*pairs, strict=True)
    return cells, plans, tuple(_cell_digest(plan, components) for plan in plans)


def _cell_digest(plan: Plan, components: Registry) -> str:
    """Return the digest of a plan and of the versions of its plugins: other code makes another cell."""
    if not components.plugins:
        return plan.digest
    used = [(KIND_OF[key], spec) for key in KIND_OF if (spec := getattr(plan.config, key)) is not None]
    used += [(key, spec) for key in REPEATABLE if key != "observers" for spec in getattr(plan.config, key)]
    makers = {components.find(kind, name_of(spec)).distribution for kind, spec in used}
    versions = {maker: version for maker, version in components.plugins.items() if maker in makers}
    if not versions:
        return plan.digest
    return hashlib.sha256(json.dumps([plan.digest, versions], sort_keys=True).encode()).hexdigest()


def _is_plain(name: str) -> bool:
    """Return whether a file of that name lies in the folder itself."""
    if name in ("", ".", "..") or set(name) & set("/\\"):
        return False
    return name.isprintable() and len(name.encode()) <= _LONGEST_NAME


def _file_stem(title: str) -> str:
    """Turn a title into the name of a file."""
    words = "".join(letter if letter.isalnum() and letter.isascii() else " " for letter in title).split()
    return "-".join(words).lower()[:80] or "grid"
