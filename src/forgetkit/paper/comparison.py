"""Measured numbers beside those of the paper."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

from forgetkit.paper.answer_columns import add_answer_columns
from forgetkit.paper.reference import Caveat, PaperNumber
from forgetkit.paper.scaled_table import ScaledTable
from forgetkit.results import statistics, table
from forgetkit.results.outcome import Outcomes
from forgetkit.results.statistics import Judgement, Summary
from forgetkit.results.table import Column, TableRow

_Place = tuple[str, str, int]
"""A part, an arm, and the position of a column."""


@dataclass(frozen=True)
class BaselineDelta:
    """An arm minus the baseline of its part: in the paper, and as measured, paired by seed."""

    printed: float | None
    measured: Judgement


@dataclass(frozen=True)
class ComparedEntry:
    """A number of an arm: the paper's, ours, and ours minus the paper's. ``marks`` are the letters of its caveats.

    There is no difference at a scale that is not comparable, for counts of errors over other test sets or numbers of
    mega-batches, and for counts of an analysis over another network.
    """

    printed: PaperNumber | None
    measured: Summary
    difference: float | None
    against: BaselineDelta | None
    marks: str


@dataclass(frozen=True)
class ComparedRow:
    """An arm of a part. ``marks`` are caveats of the arm, ``part_marks`` those of the whole part."""

    part: str
    arm: str
    ours: bool
    entries: tuple[ComparedEntry, ...]
    marks: str
    part_marks: str
    note: str


@dataclass(frozen=True)
class PaperComparison:
    """A table of the paper beside its reproduction.

    ``lettered`` are the caveats with a letter at the place they are about, ``caveats`` those of the whole table.
    """

    scaled: ScaledTable
    columns: tuple[Column, ...]
    column_marks: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    lettered: Mapping[str, Caveat]
    caveats: tuple[Caveat, ...]


def compare_with_paper(scaled: ScaledTable, outcomes: Outcomes) -> PaperComparison:
    """Each row of the paper's table that was run, beside its outcome.

    Every arm is compared with the baseline of its own part over common seeds; p values are corrected over the table.
    Numbers of analyses come from the stored answers of the runs.
    """
    paper = scaled.table
    answered = add_answer_columns(outcomes, paper.answer_columns, scaled.parts[0])
    measured = table.make_table(answered, paper.columns).rows
    rows = {(row.labels[0] if row.labels[1:] else scaled.parts[0], row.labels[-1]): row for row in measured}
    relevant = [caveat for caveat in paper.caveats if caveat.part in (None, *scaled.parts)]
    local = [caveat for caveat in relevant if not caveat.whole]
    # strict: a table with more caveats than letters loses none in silence.
    lettered = dict(zip(string.ascii_lowercase[: len(local)], local, strict=True))
    comparer = _Comparer(scaled, lettered, _baseline_deltas(scaled, rows))
    return PaperComparison(
        scaled=scaled,
        columns=paper.columns,
        column_marks=tuple(_marks(lettered, None, None, column.key) for column in paper.columns),
        rows=tuple(comparer.row(part, arm, row) for (part, arm), row in rows.items()),
        lettered=lettered,
        caveats=tuple(caveat for caveat in relevant if caveat.whole),
    )


@dataclass(frozen=True)
class _Comparer:
    scaled: ScaledTable
    lettered: Mapping[str, Caveat]
    deltas: Mapping[_Place, BaselineDelta]

    def row(self, part: str, arm: str, measured: TableRow) -> ComparedRow:
        return ComparedRow(
            part=part,
            arm=arm,
            ours=arm in self.scaled.table.ours,
            entries=tuple(self._entry(part, arm, *pair) for pair in enumerate(measured.entries)),
            marks=_marks(self.lettered, part, arm, None),
            part_marks=_marks(self.lettered, part, None, None),
            note=measured.note,
        )

    def _entry(self, part: str, arm: str, position: int, measured: table.TableEntry) -> ComparedEntry:
        column = self.scaled.table.columns[position]
        figure, mean = self.scaled.table.figure(part, arm, column.key), measured.summary.mean
        comparable = self.scaled.scale.comparable
        if column.unit == "count":
            of_analysis = column.key in self.scaled.table.answer_columns
            same = self.scaled.same_network if of_analysis else self.scaled.counts_alike
            comparable = comparable and same(part)
        return ComparedEntry(
            printed=figure,
            measured=measured.summary,
            difference=None if figure is None or mean is None or not comparable else mean - figure.value,
            against=self.deltas.get((part, arm, position)),
            marks=_marks(self.lettered, part, arm, column.key),
        )


def _baseline_deltas(scaled: ScaledTable, rows: Mapping[tuple[str, str], TableRow]) -> dict[_Place, BaselineDelta]:
    paper = scaled.table
    runs_at: dict[_Place, tuple[object, ...]] = {}
    comparisons: dict[tuple[object, ...], statistics.PairedComparison] = {}
    directions = []
    for (part, arm), row in rows.items():
        base = rows[part, paper.baseline]
        for position, column in enumerate(paper.columns):
            if arm == paper.baseline or column.higher_is_better is None or not paper.judges(part, column):
                continue
            values, others = _by_seed(row, position), _by_seed(base, position)
            runs = row.runs, base.runs, position, *values.values(), *others.values()
            runs_at[part, arm, position] = runs
            if runs not in comparisons:  # a run that stands in several parts is compared, and corrected for, once
                possible = table.difference_bounds(row.entries[position].bounds, base.entries[position].bounds)
                comparisons[runs] = statistics.compare_arms(values, others, possible)
                directions.append(column.higher_is_better)
    judged = dict(zip(comparisons, statistics.verdicts(list(comparisons.values()), directions), strict=True))

    def printed(part: str, arm: str, position: int) -> float | None:
        own, base = (paper.figure(part, name, paper.columns[position].key) for name in (arm, paper.baseline))
        return own.value - base.value if own and base else None

    return {place: BaselineDelta(printed(*place), judged[runs]) for place, runs in runs_at.items()}


def _by_seed(row: TableRow, position: int) -> dict[int, float]:
    values = ((cell.seed, cell.values[position]) for cell in row.cells)
    return {seed: value for seed, value in values if value is not None}


def _marks(lettered: Mapping[str, Caveat], part: str | None, arm: str | None, column: str | None) -> str:
    """The letters of the caveats about exactly this place.

    A caveat about an arm in all parts is marked at the arm in each of them; so is one about a column.
    """
    return "".join(
        letter
        for letter, caveat in lettered.items()
        if (caveat.arm, caveat.column) == (arm, column) and caveat.part in (None, part)
    )
