"""Tables for pages: a fragment without style or script, whose cells carry the values to sort by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from forgetkit.ablate.render import words
from forgetkit.ablate.table import Row, Table


def render(table: Table) -> str:
    """The table, a paragraph per line of the legend, a list of notes."""
    return grid(table) + remarks(table)


def grid(table: Table) -> str:
    """The table alone.

    ``data-value`` is a number at full precision, a label, or empty where there is no number; each row has all its
    labels, so that it still says what it is once rows are sorted. An entry's ``title`` compares it with the baseline.
    """
    lines = ['<table class="ablation">', f"<caption>{escape(words.plain(table.title))}</caption>", "<thead>", "<tr>"]
    lines += [f'<th scope="col">{escape(words.plain(axis))}</th>' for axis in table.axes]
    lines += [
        f'<th scope="col" data-key="{escape(column.key)}">{escape(words.heading(column))}</th>'
        for column in table.columns
    ]
    lines += ["</tr>", "</thead>", "<tbody>"]
    for row, entries in zip(table.rows, words.shown(table), strict=True):
        lines += ['<tr class="baseline">' if row.baseline else "<tr>", *_cells(table, row, entries), "</tr>"]
    return "\n".join([*lines, "</tbody>", "</table>"]) + "\n"


def remarks(table: Table) -> str:
    """What stands below the table."""
    lines = [f'<p class="legend">{escape(line)}</p>' for line in words.legend(table)]
    notes = words.notes(table)
    if notes:
        lines += ['<ul class="notes">', *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    return "".join(f"{line}\n" for line in lines)


def _cells(table: Table, row: Row, entries: Sequence[words.Shown]) -> Iterator[str]:
    for label in map(words.plain, row.labels):
        yield f'<th scope="row" data-value="{escape(label)}">{escape(label)}</th>'
    for entry, column, shown in zip(row.entries, table.columns, entries, strict=True):
        text = f"<strong>{escape(shown.text)}</strong>" if shown.bold else escape(shown.text)
        star = f"<sup>{words.STAR}</sup>" if shown.star else ""
        value = "" if entry.summary.mean is None else repr(entry.summary.mean)
        beside = "" if entry.to_baseline is None else escape(words.against(entry.to_baseline, column.unit))
        title = f' title="{beside}"' if beside else ""
        yield f'<td data-value="{value}"{title}>{text}{star}</td>'
