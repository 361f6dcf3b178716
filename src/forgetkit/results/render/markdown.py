"""Tables for GitHub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from forgetkit.results.render.document import Block, Document, Heading, Sheet, TextCell
from forgetkit.results.render.formatting import STAR


def format_document(document: Document) -> str:
    """Write the blocks with a blank line between them."""
    return "\n\n".join(text for block in document.blocks for text in _paragraphs(block)) + "\n"


def _paragraphs(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield escape(block.text)
    elif isinstance(block, Sheet):
        if block.title:
            yield f"**{escape(block.title)}**"
        sides = (":--" if column.kind == "label" else "--:" for column in block.columns)
        rows = (_line(map(_cell, row.shown)) for row in block.rows)
        yield "\n".join([_line(map(escape, block.heads)), _line(sides), *rows])
    else:
        yield "\n".join(map(escape, block.lines))
        if block.notes:
            yield "\n".join(f"- {escape(note)}" for note in block.notes)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: TextCell) -> str:
    text = escape(cell.text)
    return (f"**{text}**" if cell.bold else text) + (escape(STAR) if cell.star else "")


def escape(text: str) -> str:
    """Escape markup, and a sign at the start, which would begin a list."""
    return re.sub(r"[\\`*_\[\]<>|~&$#]|^[-+](?!\d)", r"\\\g<0>", text)
