"""The cells of a grid that run, as lines and bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import RenderableType

from forgetkit.display import layout
from forgetkit.display.display import Display, ProgressDisplay, choose_display
from forgetkit.display.run_display import RunDisplay
from forgetkit.display.run_tables import duration, percent

if TYPE_CHECKING:
    from forgetkit.ablation.estimate import CostEstimate
    from forgetkit.ablation.plan import AblationPlan
    from forgetkit.ablation.progress import ProgressReader
    from forgetkit.ablation.worker import CellResult, Task
    from forgetkit.contracts import Observer
    from forgetkit.results.cell_store import CellStatus

_RUNNING_SHOWN = 16
_STOPPING = "forgetkit: stopping after these steps (again: abort)"


def choose_cell_display(*, quiet: bool, as_json: bool, warn: Callable[[str], None] | None = None) -> CellDisplay:
    """Choose the display for where the process runs; ``warn`` replaces its warnings."""
    return CellDisplay(choose_display(quiet=quiet, as_json=as_json, warning_style="red"), warn)


class CellDisplay(ProgressDisplay):
    """Shows a line for each cell that ends, a bar for all cells, and one for each that runs."""

    def __init__(self, display: Display, warn: Callable[[str], None] | None = None) -> None:
        super().__init__(display, warn)
        self._progress: ProgressReader | None = None
        self._total, self._done = 0, 0

    @contextmanager
    def loading(self) -> Iterator[Sequence[Observer]]:
        """Show how data is loaded."""
        run = RunDisplay(self.display)
        with run.progress_context():
            yield (run,)

    @contextmanager
    def progress_context(self, ablation: AblationPlan, progress: ProgressReader) -> Iterator[None]:
        """Keep the bars on the screen while cells run."""
        self._progress, self._total, self._done = progress, len(progress.digests), 0
        moving = self.display.follow(lambda: self._bars(ablation, progress), 4) if self._total else nullcontext()
        try:
            with moving:
                yield
        finally:
            self._progress = None

    def _bars(self, ablation: AblationPlan, progress: ProgressReader) -> RenderableType:
        cells, shown = dict(zip(ablation.digests, ablation.cells, strict=True)), []
        for digest, cell in list(progress.running().items())[:_RUNNING_SHOWN]:
            epoch = f", epoch {cell.epoch}/{cell.epochs}" if cell.epochs else ""
            parts = (f"mega-batch {cell.mega_batch}{epoch}",)
            shown.append(layout.Bar(str(cells[digest]), cell.share, parts))
        left, share = progress.left(), progress.share()
        rest = () if left is None else (f"{duration(left)} left",)
        whole = layout.Bar(f"{self._done} of {self._total} cells", share, (f"{share:4.0%}", *rest), "bold")
        return layout.bars(*self.console.size, [*shown, whole], self.display.note)

    def say_stopping(self) -> None:
        """Print a line if there are workers to wait for; a signal handler calls this."""
        if self._progress is not None:
            self.display.say_at_once(_STOPPING)

    def cell_finished(self, name: str, task: Task, result: CellResult, numbers: Mapping[str, float]) -> None:
        """Show a cell, its numbers and the time left; warn of a cell that failed."""
        self._done += 1
        name = f"[{self._done}/{self._total}] {name}" if self.shows else name
        failure = result.failure(name)
        if failure is not None:
            self.warn(failure)
        elif self.shows:
            left = None if self._progress is None or self._done == self._total else self._progress.left()
            self.say(f"{name}: {_numbers_text(numbers)}{self.display.format_left(left)}")

    def show_dry_run(self, ablation: AblationPlan, statuses: Mapping[str, CellStatus], cost: CostEstimate) -> None:
        """Show the cells of a grid, and what the rest takes."""
        from forgetkit.ablation.runner import report_augment, status_line

        self.say(status_line(ablation, statuses))
        report_augment(self, cost.augment)
        if self.shows:
            self._print_cells(ablation, statuses)
        memory = "" if cost.memory_bytes is None else f" and {cost.memory_bytes / 2**20:,.0f} MiB of memory"
        self.say(
            f"about {duration(cost.seconds)} with {cost.jobs} at a time{memory}, from a sample of {cost.timed}; "
            "nothing was written"
        )

    def _print_cells(self, ablation: AblationPlan, statuses: Mapping[str, CellStatus]) -> None:
        """A row per arm: which of its seeds are done, and which are not."""
        arms: dict[tuple[str, ...], dict[str, list[int]]] = {}
        for cell, digest in zip(ablation.cells, ablation.digests, strict=True):
            arms.setdefault(tuple(cell.arm.values()), {}).setdefault(statuses[digest].status, []).append(cell.seed)
        rows = [
            (*labels, _seeds(seeds, "completed", "diverged"), _seeds(seeds, "missing", "failed"))
            for labels, seeds in arms.items()
        ]
        heads = (*ablation.grid.axes, "seeds done", "to run")
        self.console.print(layout.table(self.console.width, heads, rows))


def _numbers_text(numbers: Mapping[str, float]) -> str:
    return f"test accuracy {percent(numbers['test_accuracy'])}, CER {numbers['cer']:,}, {duration(numbers['seconds'])}"


def _seeds(by_status: Mapping[str, Sequence[int]], usual: str, other: str) -> str:
    """Return seeds of two statuses like ``0, 1, 2 (failed)``."""
    texts = [str(seed) for seed in by_status.get(usual, ())]
    return ", ".join([*texts, *(f"{seed} ({other})" for seed in by_status.get(other, ()))]) or "–"
