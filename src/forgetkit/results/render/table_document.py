"""The table of an ablation as a document for any output format."""

from __future__ import annotations

import dataclasses
from typing import Any

from forgetkit.results.render import formatting
from forgetkit.results.render.document import Block, Document, Remarks, Sheet, TextCell, TextColumn, TextRow
from forgetkit.results.render.formatting import FormattedEntry, one_line
from forgetkit.results.render.json import column_content, judgement_content
from forgetkit.results.statistics import ALPHA, CONFIDENCE
from forgetkit.results.table import Column, Table, TableEntry, TableRow

SCHEMA = 1


def table_document(table: Table) -> Document:
    """The table, its legend and notes, then the differences to the baseline."""
    blocks: list[Block] = [main_sheet(table), remarks(table), *difference_sheets(table)]
    return Document(blocks, _records(table), _content(table))


def main_sheet(table: Table) -> Sheet:
    """A row per arm. A tooltip compares an entry with the baseline."""
    figures = (TextColumn(formatting.heading(column), key=column.key) for column in table.columns)
    rows = (
        TextRow((*_labels(row), *map(_cell, row.entries, table.columns, entries)), row.repeats, row.baseline)
        for row, entries in zip(table.rows, formatting.format_entries(table), strict=True)
    )
    return Sheet(one_line(table.title), (*_axes(table), *figures), tuple(rows))


def difference_sheets(table: Table) -> list[Sheet]:
    """A sheet with a row per arm and number that is compared with the baseline, if there is any."""
    compared = formatting.format_differences(table)
    if not compared:
        return []
    difference, p, verdict = formatting.difference_heads(table)
    columns = [TextColumn("number", "label"), TextColumn(difference), TextColumn(p), TextColumn(verdict, "text")]
    rows = [
        TextRow((*_labels(row), *map(TextCell, (one.number, *one.texts))), len(table.axes) if place else 0)
        for row, numbers in compared
        for place, one in enumerate(numbers)
    ]
    return [Sheet(formatting.differences_title(table), (*_axes(table), *columns), tuple(rows), differences=True)]


def remarks(table: Table) -> Remarks:
    """The legend and the notes."""
    return Remarks(formatting.legend(table), formatting.notes(table))


def _axes(table: Table) -> list[TextColumn]:
    return [TextColumn(one_line(axis), "label") for axis in table.axes]


def _labels(row: TableRow) -> list[TextCell]:
    return [TextCell(label, value=label) for label in map(one_line, row.labels)]


def _cell(entry: TableEntry, column: Column, shown: FormattedEntry) -> TextCell:
    value = "" if entry.summary.mean is None else repr(entry.summary.mean)
    compared = "" if entry.to_baseline is None else formatting.format_comparison(entry.to_baseline, column.unit)
    return TextCell(shown.text, shown.bold, shown.star, value, compared)


def _records(table: Table) -> list[list[Any]]:
    """A record per run: the axes, then seed, status, reason and digest, then a number per column."""
    heads = [*table.axes, "seed", "status", "reason", "digest", *(column.key for column in table.columns)]
    return [
        heads,
        *(
            [*row.labels, cell.seed, cell.status, cell.reason, cell.digest, *cell.values]
            for row in table.rows
            for cell in row.cells
        ),
    ]


def _content(table: Table) -> dict[str, Any]:
    """All numbers; fractions stay fractions, and None stands for a number that is missing."""
    keys = [column.key for column in table.columns]
    return {
        "schema": SCHEMA,
        "title": table.title,
        "alpha": ALPHA,
        "confidence": CONFIDENCE,
        "axes": table.axes,
        "baseline": _arm(table, table.baseline),
        "columns": list(map(column_content, table.columns)),
        "rows": [
            {
                "arm": _arm(table, row),
                "note": row.note,
                "same_runs_as": _arm(table, table.duplicate_of(row)),
                "entries": dict(zip(keys, map(_entry_content, row.entries), strict=True)),
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


def _arm(table: Table, row: TableRow | None) -> dict[str, str] | None:
    return None if row is None else dict(zip(table.axes, row.labels, strict=True))


def _entry_content(entry: TableEntry) -> dict[str, Any]:
    compared = {"to_baseline": entry.to_baseline, "to_best": entry.to_best}
    return {
        **dataclasses.asdict(entry.summary),
        "best": entry.best,
        **{key: None if one is None else judgement_content(one) for key, one in compared.items()},
    }
