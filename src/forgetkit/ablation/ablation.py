"""An ablation: a grid in a folder. What is there of its cells stays; the rest an executor carries out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forgetkit import api
from forgetkit.ablation.equal_compute import match_samples, on_cpu
from forgetkit.ablation.grid import Grid, GridCell, plan_cells
from forgetkit.ablation.precision import share_precision
from forgetkit.ablation.worker import CellResult, Task, run_cell
from forgetkit.config import KIND_OF, REPEATABLE, Plan, name_of
from forgetkit.contracts import Executor, Keep, Observer, WorkerLost, component_name
from forgetkit.engine.context import versions
from forgetkit.engine.events import EventDispatcher
from forgetkit.engine.run_data import RunData
from forgetkit.errors import ConfigError, DataError, RunDirectoryError
from forgetkit.registry.registry import Registry
from forgetkit.results.cell_store import CellStatus, CellStore, GridManifest
from forgetkit.results.outcome import Outcomes
from forgetkit.storage import RunDirectory
from forgetkit.system.torch_settings import each_restored

_STOPPED = 130
"""Exit status of a worker that was asked to stop, and left a state to go on from."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """The cells of a grid, each with its plan and the digest it is known by, and the folder they are recorded in.

    Cells whose options come to the same share a digest, and are carried out once. ``stem`` is what the grid's name
    begins with, ``name`` the whole of it where somebody chose one.
    """

    grid: Grid
    pool: CellStore
    stem: str
    name: str | None
    cells: tuple[GridCell, ...]
    plans: tuple[Plan, ...]
    digests: tuple[str, ...]

    @classmethod
    def of(
        cls, grid: Grid, folder: Path, offers: Registry, *, name: str | None = None, stem: str | None = None
    ) -> Ablation:
        """Nothing is written. Raises ``ConfigError`` where options of a cell do not go together."""
        pairs = plan_cells(grid.cells(), offers)
        return cls(grid, CellStore(folder), stem or _file_stem(grid.title), name, *_columns(pairs, offers))

    def matched(self, offers: Registry, cache: Path) -> Ablation:
        """The same cells at equal numbers of training samples."""
        pairs = plan_cells(match_samples(self.plans, self.cells, offers, cache), offers)
        cells, plans, digests = _columns(pairs, offers)
        grid = replace(self.grid, title=f"{self.grid.title}, at equal numbers of training samples")
        return replace(self, grid=grid, stem=f"{self.stem}-equal-samples", cells=cells, plans=plans, digests=digests)

    def require_data(
        self, places: Iterable[int], found: Mapping[str, CellStatus], observers: Sequence[Observer], cache: Path
    ) -> dict[str, str]:
        """Load each data set once: one that is missing is said before anything runs, one to decode is decoded once.

        What its source remarks and its audit finds is logged. Returns what ``auto`` augmentation comes to, by data
        set. ``DataError`` where it is not what a finished cell was made from: both would stand in one table.
        """
        plans = [self.plans[place] for place in places]
        one_of_each = {plan.config.dataset: plan for plan in reversed(plans)}
        augment: dict[str, str] = {}
        for dataset, plan in one_of_each.items():
            run_data = RunData.prepare(on_cpu(plan), EventDispatcher(observers), cache)
            findings = run_data.findings(log=True)
            for other in _distinct_partitions([other for other in plans if other.config.dataset == dataset]):
                with suppress(ConfigError):  # that a cell cannot be is for the cell to say
                    cut = RunData.prepare(on_cpu(other), EventDispatcher(()), cache, data=run_data.clean)
                    new = [finding for finding in cut.audit_classes() if finding not in findings]
                    run_data.warn(new)
                    findings += new
            if any(other.config.augment == "auto" for other in plans if other.config.dataset == dataset):
                augment[dataset] = run_data.data.augment
            for other, digest in zip(self.plans, self.digests, strict=True):
                if other.config.dataset == dataset and found[digest].status == "completed":
                    self._require_same_data(other, digest, cache)
                    break  # it was compared with one that was there before
        return augment

    def _require_same_data(self, plan: Plan, digest: str, cache: Path) -> None:
        try:
            recorded = RunDirectory(self.pool.directory(digest)).manifest.get("data")
        except RunDirectoryError:  # damaged: it has nothing to compare
            return
        if recorded != RunData.prepare(on_cpu(plan), EventDispatcher(()), cache).facts():
            raise DataError(
                f"{plan.config.dataset} is not what the cells in {self.pool.path} were made from (other samples or "
                "labels): put it back, or use another --out"
            )

    def found(self) -> dict[str, CellStatus]:
        """What is there, by digest."""
        return {digest: self.pool.find(digest) for digest in self.digests}

    def made_otherwise(self, found: Mapping[str, CellStatus]) -> Iterator[str]:
        """In a line each, which library the finished cells were made with another version of."""
        now = versions(self.plans[0])
        for what in ("forgetkit", "torch"):
            then = [result["versions"].get(what) for one in found.values() if (result := one.result) is not None]
            others = [version for version in then if version != now[what]]
            if others:
                yield (
                    f"{len(others)} of {len(found)} cells were made with {what} {', '.join(sorted(set(others)))}, not "
                    f"{now[what]}: their numbers may differ"
                )

    def open(self, found: Mapping[str, CellStatus]) -> tuple[int, ...]:
        """The places of the cells that are still to be carried out, failed ones again, each digest once."""
        first = {digest: place for place, digest in reversed(list(enumerate(self.digests)))}
        return tuple(
            place
            for place, digest in enumerate(self.digests)
            if first[digest] == place and found[digest].status in ("missing", "failed")
        )

    def note(self, command: str = "") -> GridManifest:
        """The grid as it is written down, with the ``command`` that carries it out."""
        cells = tuple(
            {"arm": dict(cell.arm), "seed": cell.seed, "digest": digest}
            for cell, digest in zip(self.cells, self.digests, strict=True)
        )
        return GridManifest(self.grid.title, tuple(self.grid.axes), cells, self.grid.reference(), command)

    def named(self) -> str:
        """The grid's name in its folder; ``ConfigError`` where the one that was chosen is another question's."""
        if self.name is None:
            return self.pool.name_for(self.note(), self.stem)
        if not self.pool.may_take(self.name, self.note()):
            raise ConfigError(
                f"--name {self.name}: in {self.pool.path} that is the name of a grid with other cells: choose another"
            )
        return self.name

    def tasks(
        self,
        found: Mapping[str, CellStatus],
        *,
        keep: Keep = "last",
        plugins: Sequence[Path] = (),
        without: Sequence[str] = (),
    ) -> tuple[Task, ...]:
        """What an executor is handed for the cells that are open.

        A state to go on from is written after each epoch unless the options say how often, so that no more than the
        epoch in flight is lost.
        """
        files = tuple(str(file.absolute()) for file in plugins)
        precisions = share_precision(self.plans, api.cache_folder())
        return tuple(
            Task(
                folder=str(self.pool.path.absolute()),
                digest=self.digests[place],
                options={**_checkpoint_each_epoch(self.cells[place].options), **precisions[place], "keep_models": keep},
                plugins=files,
                without=tuple(without),
                keep=keep,
                failed_at=found[self.digests[place]].failed_at,
            )
            for place in self.open(found)
        )

    def remove_stale(self, found: Mapping[str, CellStatus], keep: Keep | None) -> None:
        """Take away what cells that came to their end before need no more, and what was left half written.

        Models go where ``keep`` says so; where it is None, those alone that a process left which died as it tidied up.
        """
        self.pool.sweep()
        for digest, state in found.items():
            if state.status in ("completed", "diverged") and (keep is not None or self.pool.has_stale(digest)):
                self.pool.remove_stale(digest, keep or "last")

    def outcomes(self, command: str = "") -> Outcomes:
        """What became of the cells."""
        return self.pool.gather(self.note(command))


def run_tasks(tasks: Sequence[Task], executor: Executor) -> Generator[tuple[Task, CellResult], None, None]:
    """Carry the tasks out: each with what came of it, as they end.

    A cell that another process has in hand is passed over and waited for at the end. Where a worker is lost, so is
    its task, and the others go on. Raises ``RecordError`` where the folder can no longer be written to.
    """
    held: list[Task] = []
    with closing(_executor_answers(tasks, executor)) as answers:
        for task, answer in answers:
            if answer is None:
                held.append(replace(task, patient=True))
            else:
                yield task, answer
    if held:
        yield from run_tasks(held, executor)


def _executor_answers(
    tasks: Sequence[Task], executor: Executor
) -> Generator[tuple[Task, CellResult | None], None, None]:
    who = f"the executor {component_name(executor)}"
    for position, answer in each_restored(who, executor.execute(run_cell, tasks)):
        task = tasks[position]
        yield task, _lost_result(task, answer) if isinstance(answer, WorkerLost) else answer


def _lost_result(task: Task, lost: WorkerLost) -> CellResult:
    pool = CellStore(Path(task.folder))
    found = pool.find(task.digest)
    if found.status == "completed" or found.failed_at not in (0, task.failed_at):
        return CellResult(found.status, found.reason)  # it was written down before the worker left
    if lost.status == _STOPPED:
        return CellResult("missing", "stopped; the same command goes on with it")
    pool.fail(task.digest, "failed", lost.reason)
    return CellResult("failed", lost.reason)


def _checkpoint_each_epoch(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options, with a state after each epoch where they do not say how often one is written."""
    return (
        options if options.keys() & {"checkpoint_seconds", "checkpoint_epochs"} else {**options, "checkpoint_epochs": 1}
    )


def _distinct_partitions(plans: Sequence[Plan]) -> Iterable[Plan]:
    """One of each kind of plan that cuts the same samples into other mega-batches, whatever the seed."""
    cuts = {(p.config.mega_batches, p.config.split, p.config.shots, p.config.val_fraction): p for p in reversed(plans)}
    return reversed(cuts.values())


def _columns(
    pairs: Sequence[tuple[GridCell, Plan]], offers: Registry
) -> tuple[tuple[GridCell, ...], tuple[Plan, ...], tuple[str, ...]]:
    cells, plans = zip(*pairs, strict=True)
    return cells, plans, tuple(_cell_digest(plan, offers) for plan in plans)


def _cell_digest(plan: Plan, offers: Registry) -> str:
    """The digest of a plan, and of the versions of the plugins whose components it uses: other code, another cell."""
    if not offers.plugins:
        return plan.digest
    asked = [(KIND_OF[key], spec) for key in KIND_OF if (spec := getattr(plan.config, key)) is not None]
    asked += [(key, spec) for key in REPEATABLE if key != "observers" for spec in getattr(plan.config, key)]
    makers = {offers.find(kind, name_of(spec)).distribution for kind, spec in asked}
    versions = {maker: version for maker, version in offers.plugins.items() if maker in makers}
    if not versions:
        return plan.digest
    return hashlib.sha256(json.dumps([plan.digest, versions], sort_keys=True).encode()).hexdigest()


def _file_stem(title: str) -> str:
    """A title as the name of a file."""
    words = "".join(letter if letter.isalnum() and letter.isascii() else " " for letter in title).split()
    return "-".join(words).lower()[:80] or "grid"
