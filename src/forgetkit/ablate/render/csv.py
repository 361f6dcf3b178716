"""The cells themselves, for other programs: one line per run, every number at full precision."""

from __future__ import annotations

import csv
import io

from forgetkit.ablate.table import Table


def render(table: Table) -> str:
    """The axes, then seed, status, reason and digest, then a number per column; what is not there is empty."""
    text = io.StringIO()
    # Texts in quotes: a lone carriage return in one would else break the line.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([*table.axes, "seed", "status", "reason", "digest", *(column.key for column in table.columns)])
    for row in table.rows:
        for cell in row.cells:
            writer.writerow([*row.labels, cell.seed, cell.status, cell.reason, cell.digest, *cell.values])
    return text.getvalue()
