"""An ablation: a grid in a folder. What is there of its cells stays; the rest an executor carries out."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from forgetkit.ablate.grid import Cell, Grid, planned
from forgetkit.ablate.matching import matched
from forgetkit.ablate.outcome import Outcomes
from forgetkit.ablate.pool import Found, Keep, Pool
from forgetkit.ablate.work import Ended, Task, carry_out
from forgetkit.config import Plan
from forgetkit.contracts import Executor, Lost
from forgetkit.registry import Registry


@dataclass(frozen=True, eq=False)
class Ablation:
    """The cells of a grid, each with its plan, and the folder that they are recorded in."""

    name: str
    grid: Grid
    pool: Pool
    cells: tuple[Cell, ...]
    plans: tuple[Plan, ...]

    @classmethod
    def of(cls, grid: Grid, folder: Path, offers: Registry, *, name: str | None = None) -> Ablation:
        """Nothing is written. Raises ``ConfigError`` where options of a cell do not go together."""
        cells, plans = zip(*planned(grid.cells(), offers), strict=True)
        return cls(name or _plain(grid.title), grid, Pool(folder), cells, plans)

    def matched(self, offers: Registry, cache: Path) -> Ablation:
        """The same cells at equal numbers of training samples."""
        cells = matched(self.plans, self.cells, offers, cache)
        cells, plans = zip(*planned(cells, offers), strict=True)
        return replace(self, cells=cells, plans=plans)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """What each cell is known by. Cells whose options come to the same share one, and are carried out once."""
        return tuple(plan.digest for plan in self.plans)

    def found(self) -> dict[str, Found]:
        """What is there, by digest."""
        return {digest: self.pool.find(digest) for digest in self.digests}

    def open(self, found: Mapping[str, Found]) -> tuple[int, ...]:
        """The places of the cells that are still to be carried out, failed ones again, each digest once."""
        first = {digest: place for place, digest in reversed(list(enumerate(self.digests)))}
        return tuple(
            place
            for place, digest in enumerate(self.digests)
            if first[digest] == place and found[digest].status in ("missing", "failed")
        )

    def note(self, command: str = "") -> None:
        """Write down which cells there are, so that tables can be made of them, and the ``command`` that runs them."""
        cells = [
            {"arm": dict(cell.arm), "seed": cell.seed, "digest": digest}
            for cell, digest in zip(self.cells, self.digests, strict=True)
        ]
        grid = self.grid
        self.pool.note(self.name, grid.title, tuple(grid.axes), cells, grid.reference(), command)

    def tasks(
        self,
        found: Mapping[str, Found],
        *,
        keep: Keep = "last",
        plugins: Sequence[Path] = (),
        without: Sequence[str] = (),
    ) -> tuple[Task, ...]:
        """What an executor is handed for the cells that are open.

        A state to go on from is written after each epoch unless the options say otherwise, so that no more than the
        epoch in flight is lost.
        """
        files = tuple(str(file.absolute()) for file in plugins)
        return tuple(
            Task(
                folder=str(self.pool.path.absolute()),
                digest=self.digests[place],
                options={"checkpoint_seconds": 0, **self.cells[place].options},
                plugins=files,
                without=tuple(without),
                keep=keep,
                failed_at=found[self.digests[place]].failed_at,
            )
            for place in self.open(found)
        )

    def outcomes(self) -> Outcomes:
        """What became of the cells."""
        return self.pool.outcomes(self.name)


def ended(tasks: Sequence[Task], executor: Executor) -> Generator[tuple[Task, Ended], None, None]:
    """Carry the tasks out: each with what came of it, as they end.

    A cell that another process has in hand is passed over and waited for at the end. Where a worker is lost, so is
    its task, and the others go on. Raises ``RecordError`` where the folder can no longer be written to.
    """
    held: list[Task] = []
    with closing(_answers(tasks, executor)) as answers:
        for task, answer in answers:
            if answer is None:
                held.append(replace(task, patient=True))
            else:
                yield task, answer
    if held:
        yield from ended(held, executor)


def _answers(tasks: Sequence[Task], executor: Executor) -> Generator[tuple[Task, Ended | None], None, None]:
    for position, answer in executor.execute(carry_out, tasks):
        task = tasks[position]
        yield task, _lost(task, answer) if isinstance(answer, Lost) else answer


def _lost(task: Task, lost: Lost) -> Ended:
    pool = Pool(Path(task.folder))
    if pool.find(task.digest).status == "completed":
        return Ended("completed")
    pool.fail(task.digest, "failed", lost.reason)
    return Ended("failed", lost.reason)


def _plain(title: str) -> str:
    """A title as the name of a file."""
    words = "".join(letter if letter.isalnum() and letter.isascii() else " " for letter in title).split()
    return "-".join(words).lower()[:80] or "grid"
