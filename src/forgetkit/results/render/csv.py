"""The cells themselves, for other programs: one line per run, every number at full precision."""

from __future__ import annotations

import csv
import io

from forgetkit.results.table import Table

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def render(table: Table) -> str:
    """The axes, then seed, status, reason and digest, then a number per column; what is not there is empty.

    An apostrophe stands in front of a text that a spreadsheet would take for a formula.
    """
    text = io.StringIO()
    # Texts in quotes: a lone carriage return in one would else break the line.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    heads = [*table.axes, "seed", "status", "reason", "digest", *(column.key for column in table.columns)]
    writer.writerow(map(_escape_formula, heads))
    for row in table.rows:
        for cell in row.cells:
            said = cell.seed, cell.status, _escape_formula(cell.reason), cell.digest
            writer.writerow([*map(_escape_formula, row.labels), *said, *cell.values])
    return text.getvalue()


def _escape_formula(text: str) -> str:
    """So that no spreadsheet calculates with it; a number, like ``-1``, is left as it is."""
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
