"""What was measured, beside what the paper has."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forgetkit.paper.answer_columns import add_answer_columns
from forgetkit.paper.reference import Caveat, PaperNumber
from forgetkit.paper.scaled_table import ScaledTable
from forgetkit.results import statistics, table
from forgetkit.results.outcome import Outcomes
from forgetkit.results.statistics import Judgement, Summary
from forgetkit.results.table import Column


@dataclass(frozen=True)
class BaselineDelta:
    """An arm less the baseline of its part: in the paper, and as it was measured, paired by seed."""

    printed: float | None
    measured: Judgement


@dataclass(frozen=True)
class ComparedEntry:
    """A number of an arm: the paper's, ours, and ours less the paper's. ``marks`` are the letters of its doubts.

    At a scale whose numbers mean nothing there is no difference. Counts of errors over other test sets or numbers of
    mega-batches have none either, nor have those of an analysis over another network.
    """

    printed: PaperNumber | None
    measured: Summary
    difference: float | None
    against: BaselineDelta | None
    marks: str


@dataclass(frozen=True)
class ComparedRow:
    """An arm of a part. ``marks`` are doubts about the arm, ``part_marks`` those about the whole part."""

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

    ``marked`` are the doubts that have a letter where they apply, ``doubts`` those about the table as a whole.
    """

    scaled: ScaledTable
    columns: tuple[Column, ...]
    column_marks: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    lettered: Mapping[str, Caveat]
    caveats: tuple[Caveat, ...]


def compare_with_paper(scaled: ScaledTable, outcomes: Outcomes) -> PaperComparison:
    """Each row of the paper's table that was run, beside what came of it.

    Every arm is compared with the baseline of its own part over common seeds; p values are corrected over the table.
    Numbers of analyses are those of the answers that the runs have.
    """
    printed = scaled.table
    answered = add_answer_columns(outcomes, printed.answer_columns, scaled.parts[0])
    measured = {_column_position(scaled, row.labels): row for row in table.make_table(answered, printed.columns).rows}
    relevant = [caveat for caveat in printed.caveats if caveat.part in (None, *scaled.parts)]
    lettered = _assign_letters([caveat for caveat in relevant if not caveat.whole])
    beside = _Comparer(scaled, lettered, _baseline_deltas(scaled, measured))
    return PaperComparison(
        scaled=scaled,
        columns=printed.columns,
        column_marks=tuple(_marks(lettered, None, None, column.key) for column in printed.columns),
        rows=tuple(beside.row(*place, row) for place, row in measured.items()),
        lettered=lettered,
        caveats=tuple(caveat for caveat in relevant if caveat.whole),
    )


@dataclass(frozen=True)
class _Comparer:
    """Sets what was measured beside the paper's. ``against`` goes by part, arm and position of the column."""

    scaled: ScaledTable
    lettered: Mapping[str, Caveat]
    against: Mapping[tuple[str, str, int], BaselineDelta]

    def row(self, part: str, arm: str, measured: table.TableRow) -> ComparedRow:
        """One arm of a part."""
        return ComparedRow(
            part=part,
            arm=arm,
            ours=arm in self.scaled.table.ours,
            entries=tuple(self._entry(part, arm, place, entry) for place, entry in enumerate(measured.entries)),
            marks=_marks(self.lettered, part, arm, None),
            part_marks=_marks(self.lettered, part, None, None),
            note=measured.note,
        )

    def _entry(self, part: str, arm: str, position: int, measured: table.TableEntry) -> ComparedEntry:
        column = self.scaled.table.columns[position]
        figure, mean = self.scaled.table.figure(part, arm, column.key), measured.summary.mean
        alike = self.scaled.scale.comparable and (
            column.unit != "count"
            or (
                self.scaled.same_network(part)
                if column.key in self.scaled.table.answer_columns
                else self.scaled.counts_alike(part)
            )
        )
        return ComparedEntry(
            printed=figure,
            measured=measured.summary,
            difference=None if figure is None or mean is None or not alike else mean - figure.value,
            against=self.against.get((part, arm, position)),
            marks=_marks(self.lettered, part, arm, column.key),
        )


def _assign_letters(caveats: Sequence[Caveat]) -> dict[str, Caveat]:
    """A letter for each; ``ValueError`` where a table has more doubts than there are letters, so that none is lost."""
    return dict(zip(string.ascii_lowercase[: len(caveats)], caveats, strict=True))


def _column_position(scaled: ScaledTable, labels: Sequence[str]) -> tuple[str, str]:
    return (labels[0], labels[1]) if len(labels) > 1 else (scaled.parts[0], labels[0])


def _baseline_deltas(
    scaled: ScaledTable, rows: Mapping[tuple[str, str], table.TableRow]
) -> dict[tuple[str, str, int], BaselineDelta]:
    """By part, arm and position of the column."""
    printed = scaled.table
    places, directions, theirs = [], [], []
    comparisons: dict[tuple[object, ...], statistics.PairedComparison] = {}
    for (part, arm), row in rows.items():
        base = rows[part, printed.baseline]
        for position, column in enumerate(printed.columns):
            if arm == printed.baseline or column.higher_is_better is None or not printed.judges(part, column):
                continue
            values, others = _by_seed(row, position), _by_seed(base, position)
            runs = row.runs, base.runs, position, *values.values(), *others.values()
            places.append(((part, arm, position), runs))
            if runs not in comparisons:  # a run that stands in several parts is compared, and corrected for, once
                possible = table.difference_bounds(row.entries[position].bounds, base.entries[position].bounds)
                comparisons[runs] = statistics.compare_arms(values, others, possible)
                directions.append(column.higher_is_better)
            figures = [printed.figure(part, name, column.key) for name in (arm, printed.baseline)]
            theirs.append(figures[0].value - figures[1].value if figures[0] and figures[1] else None)
    judged = dict(zip(comparisons, statistics.verdicts(list(comparisons.values()), directions), strict=True))
    return {place: BaselineDelta(value, judged[runs]) for (place, runs), value in zip(places, theirs, strict=True)}


def _by_seed(row: table.TableRow, position: int) -> dict[int, float]:
    values = ((cell.seed, cell.values[position]) for cell in row.cells)
    return {seed: value for seed, value in values if value is not None}


def _marks(lettered: Mapping[str, Caveat], part: str | None, arm: str | None, column: str | None) -> str:
    """The letters of the doubts about exactly this place.

    A doubt about an arm in all parts stands at the arm in each of them, and so with columns.
    """
    return "".join(
        letter
        for letter, caveat in lettered.items()
        if (caveat.arm, caveat.column) == (arm, column) and caveat.part in (None, part)
    )
