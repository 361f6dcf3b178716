"""A table before an output format writes it: plain text in cells, nothing escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal


@dataclass(frozen=True)
class TextColumn:
    """A column: ``label`` names the row, ``number`` and ``text`` say something of it.

    ``group`` is a heading above neighbouring columns, and ``key`` names the column for a script.
    """

    heading: str
    kind: Literal["label", "number", "text"] = "number"
    group: str = ""
    key: str = ""


@dataclass(frozen=True)
class TextCell:
    """One cell. On a page, ``value`` is what the column is sorted by and ``tooltip`` appears on hover."""

    text: str
    bold: bool = False
    star: bool = False
    value: str | None = None
    tooltip: str = ""


@dataclass(frozen=True)
class TextRow:
    """A cell per column. The first ``repeats`` labels equal those of the row above; text formats leave them blank."""

    cells: tuple[TextCell, ...]
    repeats: int = 0
    baseline: bool = False

    @property
    def shown(self) -> tuple[TextCell, ...]:
        """The cells, with blanks for repeated labels."""
        return (TextCell(""),) * self.repeats + self.cells[self.repeats :]


@dataclass(frozen=True)
class Sheet:
    """One table; ``differences`` says whether its numbers are those to a baseline."""

    title: str
    columns: tuple[TextColumn, ...]
    rows: tuple[TextRow, ...]
    differences: bool = False

    @property
    def labels(self) -> int:
        """How many columns name a row."""
        return sum(column.kind == "label" for column in self.columns)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heading of each column; the first of a group begins with the heading of the group."""
        above = ("", *(column.group for column in self.columns))
        return tuple(
            f"{column.group}: {column.heading}" if column.group and column.group != before else column.heading
            for column, before in zip(self.columns, above, strict=False)
        )

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The text of each cell, row by row."""
        return tuple(tuple(cell.text for cell in row.shown) for row in self.rows)

    def split(self) -> Iterator[Sheet]:
        """A narrower sheet for each group of columns; its title ends with the heading of the group."""
        start = self.labels
        for group, members in groupby(self.columns[start:], lambda column: column.group):
            columns = [TextColumn(column.heading, column.kind) for column in members]
            end = start + len(columns)
            rows = (TextRow(row.cells[: self.labels] + row.cells[start:end], row.repeats) for row in self.rows)
            title = ": ".join(filter(None, (self.title, group)))
            yield Sheet(title, (*self.columns[: self.labels], *columns), tuple(rows))
            start = end


@dataclass(frozen=True)
class Heading:
    """A line above a sheet."""

    text: str


@dataclass(frozen=True)
class Remarks:
    """Lines below a sheet, then a list of notes."""

    lines: Sequence[str]
    notes: Sequence[str] = ()


Block = Sheet | Heading | Remarks


@dataclass(frozen=True)
class Document:
    """A table in the three forms that formats need.

    Attributes:
        blocks: what people read, in order.
        records: for a spreadsheet, the headings and then the values of each row.
        content: for other programs, as JSON holds it.
        fit: whether LaTeX shrinks a wide sheet to the width of a line, and breaks long headings and labels.
    """

    blocks: Sequence[Block]
    records: Iterable[Sequence[Any]]
    content: Mapping[str, Any]
    fit: bool = True
