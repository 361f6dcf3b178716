"""The table with all its numbers, for other programs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from forgetkit.results.render import formatting
from forgetkit.results.statistics import ALPHA, CONFIDENCE, Judgement
from forgetkit.results.table import Table, TableEntry, TableRow

SCHEMA = 1


def render(table: Table) -> str:
    """One object, indented. Fractions stay fractions; null is what is not there."""
    keys = [column.key for column in table.columns]
    content = {
        "schema": SCHEMA,
        "title": table.title,
        "alpha": ALPHA,
        "confidence": CONFIDENCE,
        "axes": table.axes,
        "baseline": None if table.baseline is None else _arm(table, table.baseline),
        "columns": [
            {
                "key": column.key,
                "title": column.title,
                "unit": column.unit,
                "higher_is_better": column.higher_is_better,
            }
            for column in table.columns
        ],
        "rows": [
            {
                "arm": _arm(table, row),
                "note": row.note,
                "same_runs_as": None if (twin := table.twin(row)) is None else _arm(table, twin),
                "entries": dict(zip(keys, map(_entry, row.entries), strict=True)),
                "cells": [
                    {
                        "seed": cell.seed,
                        "status": cell.status,
                        "reason": cell.reason,
                        "digest": cell.digest,
                        "values": dict(zip(keys, cell.values, strict=True)),
                    }
                    for cell in row.cells
                ],
            }
            for row in table.rows
        ],
        "legend": formatting.legend(table),
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _arm(table: Table, row: TableRow) -> dict[str, str]:
    return dict(zip(table.axes, row.labels, strict=True))


def _entry(entry: TableEntry) -> dict[str, Any]:
    return {
        **dataclasses.asdict(entry.summary),
        "best": entry.best,
        "to_baseline": _judgement(entry.to_baseline),
        "to_best": _judgement(entry.to_best),
    }


def _judgement(judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    return {
        **dataclasses.asdict(judgement.comparison),
        "adjusted": judgement.adjusted,
        "verdict": judgement.verdict,
    }
