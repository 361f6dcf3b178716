"""A folder with results, as a command line names it: the directory of a run, or the folder of an ablation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forgetkit.errors import OptionError, RunDirectoryError
from forgetkit.results.cell_store import CellStore
from forgetkit.results.outcome import Outcomes
from forgetkit.results.report import single_run


@dataclass(frozen=True)
class ResultFolder:
    """A run, of which ``cells`` and ``grid`` are None, or the cells of an ablation and the name of one grid of them."""

    path: Path
    cells: CellStore | None = None
    grid: str | None = None

    @classmethod
    def open(cls, path: Path, grid: str | None, remedy: str) -> ResultFolder:
        """Open ``path``, and its newest grid if none is named; an error about another folder says ``remedy``."""
        if not single_run.is_run(path):
            cells = open_ablation(path, remedy)
            return cls(path, cells, grid or next(iter(cells.grids()), None))
        if grid is not None:
            raise OptionError(f"--grid {grid}: {path} is the directory of a single run; leave it out")
        return cls(path)

    def outcomes(self, *, with_answers: bool = True) -> Outcomes:
        """Return the outcome of the run, or of each cell of the grid."""
        if self.cells is None:
            return single_run.single_run_outcomes(self.path)
        return self.cells.outcomes(self.grid, with_answers=with_answers)


def open_ablation(path: Path, remedy: str) -> CellStore:
    """Open the folder of an ablation; an error about another folder says ``remedy`` or names the right one."""
    if not path.is_dir():
        raise RunDirectoryError(f"{path} is no folder: {remedy}")
    store = CellStore(path)
    if store.grids():
        return store
    runs = sorted(str(manifest.parent) for manifest in path.glob("*/manifest.json"))
    if runs:
        raise RunDirectoryError(f"{path} holds no grid: {remedy}; a run is {' or '.join(runs[:2])}")
    below = sorted({str(grid.parents[1]) for grid in path.glob("*/grids/*.json")})
    if below:
        raise RunDirectoryError(f"{path} holds no grid; did you mean {' or '.join(below[:3])}?")
    return store
