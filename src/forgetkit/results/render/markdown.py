"""Tables for GitHub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from forgetkit.results.render import formatting
from forgetkit.results.table import Table


def render(table: Table) -> str:
    """Title, table, legend, a list of notes, the differences to the baseline."""
    heads = [*map(formatting.one_line, table.axes), *map(formatting.heading, table.columns)]
    lines = [f"**{escape(formatting.one_line(table.title))}**", ""] if formatting.one_line(table.title) else []
    lines += head(heads, len(table.axes))
    for row, entries in zip(table.rows, formatting.format_entries(table), strict=True):
        lines.append(line([*map(escape, formatting.labels(row)), *map(_figure, entries)]))
    lines += ["", *map(escape, formatting.legend(table))]
    notes = formatting.notes(table)
    if notes:
        lines += ["", *(f"- {escape(note)}" for note in notes)]
    return "\n".join([*lines, *_differences(table)]) + "\n"


def _differences(table: Table) -> list[str]:
    """A title, and a table with a line per arm and number; nothing where nothing is compared."""
    compared = formatting.format_differences(table)
    if not compared:
        return []
    heads = [*map(formatting.one_line, table.axes), "number", *formatting.difference_heads(table)]
    lines = ["", f"**{escape(formatting.differences_title(table))}**", "", *head(heads, len(table.axes) + 1)]
    for row, numbers in compared:
        labels = [formatting.one_line(label) for label in row.labels]
        for one in numbers:
            lines.append(line(map(escape, [*labels, one.number, *one.said])))
            labels = [""] * len(labels)
    return lines


def head(heads: Sequence[str], labels: int) -> list[str]:
    """The two lines that a table begins with; the first ``labels`` columns stand to the left, figures to the right."""
    return [line(map(escape, heads)), line([":--"] * labels + ["--:"] * (len(heads) - labels))]


def line(cells: Iterable[str]) -> str:
    """A line of a table, whose cells are escaped already."""
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """What could be read as markup stands for itself; a sign at the start would begin a list."""
    return re.sub(r"[\\`*_\[\]<>|~&$#]|^[-+](?!\d)", r"\\\g<0>", text)


def _figure(shown: formatting.FormattedEntry) -> str:
    text = escape(shown.text)
    return (f"**{text}**" if shown.bold else text) + (escape(formatting.STAR) if shown.star else "")
