"""The outcomes of a grid as a table, a data frame and a page: what ``forgetkit.ablate`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forgetkit.errors import RunDirectoryError, UsageError
from forgetkit.results.columns import answer_columns, other_columns
from forgetkit.results.outcome import Outcomes
from forgetkit.results.render import formatting
from forgetkit.results.table import STANDARD, Table, make_table


@dataclass(frozen=True, eq=False)
class Ablation:
    """The outcomes of a grid of runs, as they were when ``forgetkit.ablate`` returned.

    Attributes:
        path: The folder of the cells, absolute, which ``forgetkit table`` and ``forgetkit report`` take.
        outcomes: Each cell with its arm, seed, status and result.
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
            A ``pandas.DataFrame``: a column per axis, ``seed``, ``status``, ``reason`` and ``digest``, then each number
            of the results and of the analyses as float64, NaN if a cell has none.

        Raises:
            UsageError: If pandas is missing.

        Example:
            >>> accuracies = found.to_pandas()["test_accuracy"]  # doctest: +SKIP
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
        """Write the page that ``forgetkit report`` writes.

        Args:
            path: The HTML file. Missing folders are made, an older file is replaced.

        Returns:
            The path of the page. Without matplotlib the page has no pictures, and says so.

        Raises:
            RunDirectoryError: If the folder cannot be made.
            RecordError: If the file cannot be written.

        Example:
            >>> page = found.report("report.html")
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
        cells = [cell.status for cell in self.outcomes.cells]
        counts = ", ".join(f"{cells.count(status)} {status}" for status in dict.fromkeys(cells))
        return notebook_html(self.table, f"{len(cells)} cells in {self.path}: {counts}")


def notebook_html(table: Table, headline: str) -> str:
    """Return a table for a notebook: a line above it, figures of one width, and a scroll bar if it is wide."""
    return (
        f"<p>{escape(formatting.one_line(headline))}</p>\n"
        f'<div style="overflow-x: auto; font-variant-numeric: tabular-nums">\n{table.render("html")}</div>\n'
    )
