"""What ``forgetkit.ablate`` returns: the outcomes of a grid as a table, a data frame and a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forgetkit.errors import RunDirectoryError, UsageError
from forgetkit.results.columns import answer_columns, other_columns
from forgetkit.results.outcome import Outcomes
from forgetkit.results.table import STANDARD, Table, make_table


@dataclass(frozen=True, eq=False)
class Ablation:
    """What the cells of a grid came to, as they were when `forgetkit.ablate` returned.

    Attributes:
        path: the folder of the cells, which `forgetkit table` and `forgetkit report` take.
        outcomes: each cell with its arm, seed, status and result.
    """

    path: Path
    outcomes: Outcomes = field(repr=False)

    @cached_property
    def table(self) -> Table:
        """The table of means, comparisons and stars; ``print`` shows it, ``table.render("latex")`` formats it."""
        return make_table(self.outcomes)

    def to_pandas(self) -> Any:
        """Return a data frame with a row per cell.

        Returns:
            A `pandas.DataFrame`: a column per axis, `seed`, `status`, `reason` and `digest`, then each number of the
            results and of the analyses at full precision, NaN if a cell has none.

        Raises:
            UsageError: pandas is missing.

        Example:
            >>> forgetkit.ablate(importance=["snip", "random"]).to_pandas()["test_accuracy"].mean()
        """
        if find_spec("pandas") is None:
            raise UsageError("to_pandas() needs pandas: pip install pandas")
        columns = (*STANDARD, *other_columns(self.outcomes), *answer_columns(self.outcomes))
        table = make_table(self.outcomes, columns)
        heads = [*table.axes, "seed", "status", "reason", "digest", *(column.key for column in columns)]
        rows = [
            (*row.labels, cell.seed, cell.status, cell.reason, cell.digest, *cell.values)
            for row in table.rows
            for cell in row.cells
        ]
        frame = import_module("pandas").DataFrame(rows, columns=heads)
        numbers = {column.key: "float64" for column in columns}
        return frame.astype(numbers)

    def report(self, path: str | Path) -> Path:
        """Write the page that `forgetkit report` writes.

        Args:
            path: the HTML file; folders above it are made. An older file is replaced.

        Returns:
            The path of the page. It has no pictures if matplotlib is missing, and says so.

        Raises:
            RunDirectoryError: the folder cannot be made.
            RecordError: the file cannot be written.

        Example:
            >>> forgetkit.ablate(importance=["snip", "random"]).report("report.html")
        """
        from forgetkit.results import plots
        from forgetkit.results.report import render_page
        from forgetkit.storage import write_output

        target = Path(path)
        figures = plots.draw_pictures(self.outcomes) if plots.has_matplotlib() else None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make {target.parent}: {error.strerror}; choose another place") from error
        write_output(target, render_page(self.outcomes, self.table, figures).encode())
        return target

    def __str__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()
