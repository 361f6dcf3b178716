"""What was measured, beside what the paper has."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forgetkit.ablate import table
from forgetkit.ablate.outcome import Outcomes
from forgetkit.ablate.reproduction.printed import Doubt, Figure
from forgetkit.ablate.reproduction.setting import Setting
from forgetkit.ablate.statistics import Judgement, Summary, compare, verdicts
from forgetkit.ablate.table import Column


@dataclass(frozen=True)
class Against:
    """An arm less the baseline of its part: in the paper, and as it was measured, paired by seed."""

    printed: float | None
    measured: Judgement


@dataclass(frozen=True)
class Entry:
    """A number of an arm: the paper's, ours, and ours less the paper's. ``marks`` are the letters of its doubts.

    Counts of errors over other test sets or numbers of mega-batches have no difference.
    """

    printed: Figure | None
    measured: Summary
    difference: float | None
    against: Against | None
    marks: str


@dataclass(frozen=True)
class Row:
    """An arm of a part. ``marks`` are doubts about the arm, ``part_marks`` those about the whole part."""

    part: str
    arm: str
    ours: bool
    entries: tuple[Entry, ...]
    marks: str
    part_marks: str
    note: str


@dataclass(frozen=True)
class Comparison:
    """A table of the paper beside its reproduction.

    ``marked`` are the doubts that have a letter where they apply, ``doubts`` those about the table as a whole.
    """

    setting: Setting
    columns: tuple[Column, ...]
    column_marks: tuple[str, ...]
    rows: tuple[Row, ...]
    marked: Mapping[str, Doubt]
    doubts: tuple[Doubt, ...]


def compared(setting: Setting, outcomes: Outcomes) -> Comparison:
    """Each row of the paper's table that was run, beside what came of it.

    Every arm is compared with the baseline of its own part over common seeds; p values are corrected over the table.
    """
    printed = setting.table
    made = table.make(outcomes, printed.columns)
    cells = {_place(setting, row.labels): row for row in made.rows}
    against = _against(setting, cells)
    relevant = [doubt for doubt in printed.doubts if doubt.part in (None, *setting.parts)]
    marked = dict(zip(string.ascii_lowercase, (doubt for doubt in relevant if not doubt.whole), strict=False))
    rows = []
    for (part, arm), row in cells.items():
        entries = []
        for position, (entry, column) in enumerate(zip(row.entries, printed.columns, strict=True)):
            figure = printed.figure(part, arm, column.key)
            mean = entry.summary.mean
            alike = column.unit != "count" or setting.counts_alike(part)
            entries.append(
                Entry(
                    printed=figure,
                    measured=entry.summary,
                    difference=None if figure is None or mean is None or not alike else mean - figure.value,
                    against=against.get((part, arm, position)),
                    marks=_marks(marked, part, arm, column.key),
                )
            )
        marks = _marks(marked, part, arm, None)
        rows.append(
            Row(part, arm, arm in printed.ours, tuple(entries), marks, _marks(marked, part, None, None), row.note)
        )
    return Comparison(
        setting=setting,
        columns=printed.columns,
        column_marks=tuple(_marks(marked, None, None, column.key) for column in printed.columns),
        rows=tuple(rows),
        marked=marked,
        doubts=tuple(doubt for doubt in relevant if doubt.whole),
    )


def _place(setting: Setting, labels: Sequence[str]) -> tuple[str, str]:
    return (labels[0], labels[1]) if len(labels) > 1 else (setting.parts[0], labels[0])


def _against(setting: Setting, rows: Mapping[tuple[str, str], table.Row]) -> dict[tuple[str, str, int], Against]:
    """By part, arm and position of the column."""
    printed = setting.table
    places, comparisons, directions, theirs = [], [], [], []
    for (part, arm), row in rows.items():
        base = rows[part, printed.baseline]
        for position, column in enumerate(printed.columns):
            if arm == printed.baseline or column.higher_is_better is None:
                continue
            places.append((part, arm, position))
            comparisons.append(compare(_by_seed(row, position), _by_seed(base, position)))
            directions.append(column.higher_is_better)
            figures = [printed.figure(part, name, column.key) for name in (arm, printed.baseline)]
            theirs.append(figures[0].value - figures[1].value if figures[0] and figures[1] else None)
    judged = verdicts(comparisons, directions)
    return {place: Against(value, one) for place, value, one in zip(places, theirs, judged, strict=True)}


def _by_seed(row: table.Row, position: int) -> dict[int, float]:
    values = ((cell.seed, cell.values[position]) for cell in row.cells)
    return {seed: value for seed, value in values if value is not None}


def _marks(marked: Mapping[str, Doubt], part: str | None, arm: str | None, column: str | None) -> str:
    """The letters of the doubts about exactly this place.

    A doubt about an arm in all parts stands at the arm in each of them, and so with columns.
    """
    return "".join(
        letter
        for letter, doubt in marked.items()
        if (doubt.arm, doubt.column) == (arm, column) and doubt.part in (None, part)
    )
