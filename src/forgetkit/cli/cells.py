"""What is seen while the cells of a grid are carried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import RenderableType

from forgetkit.cli import layout, screen, tables
from forgetkit.cli.console import Console, print_error, say_at_once

if TYPE_CHECKING:
    from forgetkit.ablation.plan import AblationPlan
    from forgetkit.ablation.progress import ProgressReader
    from forgetkit.ablation.worker import CellResult, Task

_RUNNING_SHOWN = 16
_STOPPING = "forgetkit: stopping after these steps (again: at once)"


def choose_cell_display(*, quiet: bool, as_json: bool) -> CellDisplay:
    """The view that suits: with ``--json`` standard output belongs to the object alone."""
    console = Console(stderr=as_json)
    if quiet:
        return CellDisplay(console)
    return LiveCellDisplay(console) if console.moves else PlainCellDisplay(console)


class CellDisplay:
    """Says nothing of cells that go well."""

    shows = False
    """Whether tables are shown."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def following(self, ablation: AblationPlan, follower: ProgressReader) -> Iterator[None]:
        """While cells are carried out."""
        yield

    def say(self, text: str) -> None:
        """A line that is no warning."""

    def warn(self, message: str) -> None:
        """A line on standard error."""
        print_error(f"forgetkit: {message}")

    def say_stopping(self) -> None:
        """Nothing; called by a signal, in the midst of anything."""

    def ended(self, name: str, task: Task, ended: CellResult, numbers: Mapping[str, float]) -> None:
        """A cell came to its end; one that failed is worth a line in any case."""
        failure = ended.failure(name)
        if failure is not None:
            self.warn(failure)


class PlainCellDisplay(CellDisplay):
    """A line for each cell."""

    shows = True

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._follower: ProgressReader | None = None
        self._total, self._done = 0, 0

    def say_stopping(self) -> None:
        """A line, where there are workers to wait for."""
        if self._follower is not None:
            say_at_once(_STOPPING)

    @contextmanager
    def following(self, ablation: AblationPlan, follower: ProgressReader) -> Iterator[None]:
        """While cells are carried out."""
        self._follower, self._total, self._done = follower, len(follower.digests), 0
        try:
            yield
        finally:
            self._follower = None

    def say(self, text: str) -> None:
        """A line."""
        self.console.say(text)

    def ended(self, name: str, task: Task, ended: CellResult, numbers: Mapping[str, float]) -> None:
        """Which cell, what it came to, and what is left."""
        self._done += 1
        place = f"[{self._done}/{self._total}]"
        super().ended(f"{place} {name}", task, ended, numbers)
        if ended.status == "completed":
            self.say(f"{place} {name}: {_count_texts(numbers)}{self._left()}")

    def _left(self) -> str:
        left = None if self._follower is None or self._done == self._total else self._follower.left()
        return "" if left is None else f", about {tables.duration(left)} left"


class LiveCellDisplay(PlainCellDisplay):
    """A bar for all cells and one for each that is being carried out; those that end leave a line."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._stopping = ""

    @contextmanager
    def following(self, ablation: AblationPlan, follower: ProgressReader) -> Iterator[None]:
        """While cells are carried out, the bars are on the screen."""
        names = dict(zip(ablation.digests, map(str, ablation.cells), strict=True))

        def bars() -> RenderableType:
            shown = []
            for digest, standing in list(follower.standing().items())[:_RUNNING_SHOWN]:
                epoch = f", epoch {standing.epoch}/{standing.epochs}" if standing.epochs else ""
                parts = (f"mega-batch {standing.mega_batch}{epoch}",)
                shown.append(layout.Bar(names[digest], standing.share, parts))
            left, share = follower.left(), follower.share()
            rest = () if left is None else (f"{tables.duration(left)} left",)
            whole = layout.Bar(f"{self._done} of {self._total} cells", share, (f"{share:4.0%}", *rest), "bold")
            return layout.bars(*self.console.size, [*shown, whole], self._stopping)

        moving = screen.live_display(self.console, bars, 4)
        with super().following(ablation, follower), moving if follower.digests else nullcontext():
            yield

    def say_stopping(self) -> None:
        """Below the bars: what a signal wrote to the terminal itself, the bars would overwrite."""
        if self._follower is not None:
            self._stopping = _STOPPING

    def warn(self, message: str) -> None:
        """Above the bars."""
        self.console.say(f"forgetkit: {message}", "red")

    def _left(self) -> str:
        return ""


def _count_texts(numbers: Mapping[str, float]) -> str:
    return (
        f"test accuracy {tables.percent(numbers['test_accuracy'])}, CER {numbers['cer']:,}, "
        f"{tables.duration(numbers['seconds'])}"
    )


def print_status(console: Console, ablation: AblationPlan, states: Sequence[str]) -> None:
    """A row per arm: which of its seeds are done, and which are not."""
    axes = list(ablation.grid.axes)
    arms: dict[tuple[str, ...], dict[str, list[int]]] = {}
    rows: list[tuple[str, ...]] = []
    for cell, state in zip(ablation.cells, states, strict=True):
        arms.setdefault(tuple(cell.arm.values()), {}).setdefault(state, []).append(cell.seed)
    for labels, seeds in arms.items():
        done = _seeds({state: s for state, s in seeds.items() if state in ("completed", "diverged")}, "completed")
        rest = _seeds({state: s for state, s in seeds.items() if state in ("missing", "failed")}, "missing")
        rows.append((*labels, done, rest))
    console.print(layout.table(console.width, (*axes, "seeds done", "to run"), rows))


def _seeds(by_state: Mapping[str, Sequence[int]], unsaid: str) -> str:
    """``0, 1, 2 (failed)``."""
    words = [
        f"{seed}" + ("" if state == unsaid else f" ({state})") for state, seeds in by_state.items() for seed in seeds
    ]
    return ", ".join(words) or "–"
