"""Tables for pages: a fragment without style or script, whose cells carry the values to sort by."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from forgetkit.results.render.document import Block, Document, Heading, Sheet, TextCell, TextColumn
from forgetkit.results.render.formatting import STAR


def format_document(document: Document) -> str:
    """Write the blocks one below the other."""
    return "".join(map(format_block, document.blocks))


def format_block(block: Block) -> str:
    """Write a table, or a paragraph per line and a list of notes.

    ``data-value`` is a number at full precision, a label, or empty if there is no number. Each row has all its labels,
    so that it can be read after rows are sorted.
    """
    return "".join(f"{line}\n" for line in _lines(block))


def _lines(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f"<p>{escape(block.text)}</p>"
    elif isinstance(block, Sheet):
        yield f'<table class="ablation{" differences" if block.differences else ""}">'
        yield from (f"<caption>{escape(block.title)}</caption>", "<thead>", "<tr>")
        for column, head in zip(block.columns, block.heads, strict=True):
            key = f' data-key="{escape(column.key)}"' if column.key else ""
            yield f'<th scope="col"{key}>{escape(head)}</th>'
        yield from ("</tr>", "</thead>", "<tbody>")
        for row in block.rows:
            yield '<tr class="baseline">' if row.baseline else "<tr>"
            yield from map(_cell, block.columns, row.cells)
            yield "</tr>"
        yield from ("</tbody>", "</table>")
    else:
        yield from (f'<p class="legend">{escape(line)}</p>' for line in block.lines)
        if block.notes:
            yield from ('<ul class="notes">', *(f"<li>{escape(note)}</li>" for note in block.notes), "</ul>")


def _cell(column: TextColumn, cell: TextCell) -> str:
    tag, scope = ("th", ' scope="row"') if column.kind == "label" else ("td", "")
    value = "" if cell.value is None else f' data-value="{escape(cell.value)}"'
    tooltip = f' title="{escape(cell.tooltip)}"' if cell.tooltip else ""
    text = f"<strong>{escape(cell.text)}</strong>" if cell.bold else escape(cell.text)
    return f"<{tag}{scope}{value}{tooltip}>{text}{f'<sup>{STAR}</sup>' if cell.star else ''}</{tag}>"
