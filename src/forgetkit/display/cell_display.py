"""What is shown while the cells of a grid are carried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import RenderableType

from forgetkit.display import layout
from forgetkit.display.console import Console
from forgetkit.display.display import Display, ProgressDisplay, choose_display
from forgetkit.display.run_tables import duration, percent

if TYPE_CHECKING:
    from forgetkit.ablation.plan import AblationPlan
    from forgetkit.ablation.progress import ProgressReader
    from forgetkit.ablation.worker import CellResult, Task

_RUNNING_SHOWN = 16
_STOPPING = "forgetkit: stopping after these steps (again: at once)"


def choose_cell_display(*, quiet: bool, as_json: bool) -> CellDisplay:
    """Show cells as the options ask; warnings go above the bars."""
    return CellDisplay(choose_display(quiet=quiet, as_json=as_json, warning_style="red"))


class CellDisplay(ProgressDisplay):
    """A line for each cell that ends; a bar for all cells and one for each that is being carried out."""

    def __init__(self, display: Display) -> None:
        super().__init__(display)
        self._follower: ProgressReader | None = None
        self._total, self._done = 0, 0

    @contextmanager
    def following(self, ablation: AblationPlan, follower: ProgressReader) -> Iterator[None]:
        """While cells are carried out, the bars are on the screen."""
        self._follower, self._total, self._done = follower, len(follower.digests), 0
        moving = self.display.follow(lambda: self._bars(ablation, follower), 4) if self._total else nullcontext()
        try:
            with moving:
                yield
        finally:
            self._follower = None

    def _bars(self, ablation: AblationPlan, follower: ProgressReader) -> RenderableType:
        cells, shown = dict(zip(ablation.digests, ablation.cells, strict=True)), []
        for digest, standing in list(follower.standing().items())[:_RUNNING_SHOWN]:
            epoch = f", epoch {standing.epoch}/{standing.epochs}" if standing.epochs else ""
            parts = (f"mega-batch {standing.mega_batch}{epoch}",)
            shown.append(layout.Bar(str(cells[digest]), standing.share, parts))
        left, share = follower.left(), follower.share()
        rest = () if left is None else (f"{duration(left)} left",)
        whole = layout.Bar(f"{self._done} of {self._total} cells", share, (f"{share:4.0%}", *rest), "bold")
        return layout.bars(*self.console.size, [*shown, whole], self.display.note)

    def say_stopping(self) -> None:
        """A line, where there are workers to wait for; called by a signal, in the midst of anything."""
        if self._follower is not None:
            self.display.say_at_once(_STOPPING)

    def ended(self, name: str, task: Task, ended: CellResult, numbers: Mapping[str, float]) -> None:
        """Which cell, what it came to, and what is left; one that failed is worth a line in any case."""
        self._done += 1
        name = f"[{self._done}/{self._total}] {name}" if self.shows else name
        if ended.status != "completed":
            what = {"missing": "", "diverged": " diverged"}.get(ended.status, " failed")
            self.warn(f"{name}{what}: {ended.reason}")
        elif self.shows:
            left = None if self._follower is None or self._done == self._total else self._follower.left()
            self.say(f"{name}: {_count_texts(numbers)}{self.display.format_left(left)}")


def _count_texts(numbers: Mapping[str, float]) -> str:
    return f"test accuracy {percent(numbers['test_accuracy'])}, CER {numbers['cer']:,}, {duration(numbers['seconds'])}"


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
