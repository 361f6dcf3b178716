"""Tables for pages: a fragment without style or script, whose cells carry the values to sort by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from forgetkit.results.render import formatting
from forgetkit.results.table import Table, TableRow


def render(table: Table) -> str:
    """The table, a paragraph per line of the legend, a list of notes, the differences to the baseline."""
    return grid(table) + remarks(table) + differences(table)


def grid(table: Table) -> str:
    """The table alone.

    ``data-value`` is a number at full precision, a label, or empty where there is no number; each row has all its
    labels, so that it still says what it is once rows are sorted. An entry's ``title`` compares it with the baseline.
    """
    lines = [
        '<table class="ablation">',
        f"<caption>{escape(formatting.one_line(table.title))}</caption>",
        "<thead>",
        "<tr>",
    ]
    lines += _axes(table)
    lines += [
        f'<th scope="col" data-key="{escape(column.key)}">{escape(formatting.heading(column))}</th>'
        for column in table.columns
    ]
    lines += ["</tr>", "</thead>", "<tbody>"]
    for row, entries in zip(table.rows, formatting.format_entries(table), strict=True):
        cells = [*_labels(row), *_cells(table, row, entries)]
        lines += ['<tr class="baseline">' if row.baseline else "<tr>", *cells, "</tr>"]
    return "\n".join([*lines, "</tbody>", "</table>"]) + "\n"


def differences(table: Table) -> str:
    """A table with a row per arm and number that is compared with the baseline; empty where there is none."""
    compared = formatting.format_differences(table)
    if not compared:
        return ""
    title = escape(formatting.differences_title(table))
    lines = ['<table class="ablation differences">', f"<caption>{title}</caption>", "<thead>", "<tr>"]
    lines += [*_axes(table), '<th scope="col">number</th>']
    lines += [f'<th scope="col">{escape(head)}</th>' for head in formatting.difference_heads(table)]
    lines += ["</tr>", "</thead>", "<tbody>"]
    for row, numbers in compared:
        for one in numbers:
            cells = [f'<th scope="row">{escape(one.number)}</th>', *(f"<td>{escape(said)}</td>" for said in one.said)]
            lines += ["<tr>", *_labels(row), *cells, "</tr>"]
    return "\n".join([*lines, "</tbody>", "</table>"]) + "\n"


def remarks(table: Table) -> str:
    """What stands below the table."""
    lines = [f'<p class="legend">{escape(line)}</p>' for line in formatting.legend(table)]
    notes = formatting.notes(table)
    if notes:
        lines += ['<ul class="notes">', *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    return "".join(f"{line}\n" for line in lines)


def _axes(table: Table) -> list[str]:
    return [f'<th scope="col">{escape(formatting.one_line(axis))}</th>' for axis in table.axes]


def _labels(row: TableRow) -> list[str]:
    labels = [escape(formatting.one_line(label)) for label in row.labels]
    return [f'<th scope="row" data-value="{label}">{label}</th>' for label in labels]


def _cells(table: Table, row: TableRow, entries: Sequence[formatting.FormattedEntry]) -> Iterator[str]:
    for entry, column, shown in zip(row.entries, table.columns, entries, strict=True):
        text = f"<strong>{escape(shown.text)}</strong>" if shown.bold else escape(shown.text)
        star = f"<sup>{formatting.STAR}</sup>" if shown.star else ""
        value = "" if entry.summary.mean is None else repr(entry.summary.mean)
        beside = (
            "" if entry.to_baseline is None else escape(formatting.format_comparison(entry.to_baseline, column.unit))
        )
        title = f' title="{beside}"' if beside else ""
        yield f'<td data-value="{value}"{title}>{text}{star}</td>'
