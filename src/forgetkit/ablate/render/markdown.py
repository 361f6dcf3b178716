"""Tables for GitHub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from forgetkit.ablate.render import words
from forgetkit.ablate.table import Table


def render(table: Table) -> str:
    """Title, table, legend, a list of notes, the differences to the baseline."""
    heads = [*map(words.plain, table.axes), *map(words.heading, table.columns)]
    lines = [f"**{escaped(words.plain(table.title))}**", ""] if words.plain(table.title) else []
    lines += head(heads, len(table.axes))
    for row, entries in zip(table.rows, words.shown(table), strict=True):
        lines.append(line([*map(escaped, words.labels(row)), *map(_figure, entries)]))
    lines += ["", *map(escaped, words.legend(table))]
    notes = words.notes(table)
    if notes:
        lines += ["", *(f"- {escaped(note)}" for note in notes)]
    return "\n".join([*lines, *_differences(table)]) + "\n"


def _differences(table: Table) -> list[str]:
    """A title, and a table with a line per arm and number; nothing where nothing is compared."""
    compared = words.differences(table)
    if not compared:
        return []
    heads = [*map(words.plain, table.axes), "number", *words.difference_heads(table)]
    lines = ["", f"**{escaped(words.differences_title(table))}**", "", *head(heads, len(table.axes) + 1)]
    for row, numbers in compared:
        labels = [words.plain(label) for label in row.labels]
        for one in numbers:
            lines.append(line(map(escaped, [*labels, one.number, *one.said])))
            labels = [""] * len(labels)
    return lines


def head(heads: Sequence[str], labels: int) -> list[str]:
    """The two lines that a table begins with; the first ``labels`` columns stand to the left, figures to the right."""
    return [line(map(escaped, heads)), line([":--"] * labels + ["--:"] * (len(heads) - labels))]


def line(cells: Iterable[str]) -> str:
    """A line of a table, whose cells are escaped already."""
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """What could be read as markup stands for itself; a sign at the start would begin a list."""
    return re.sub(r"[\\`*_\[\]<>|~&$#]|^[-+](?!\d)", r"\\\g<0>", text)


def _figure(shown: words.Shown) -> str:
    text = escaped(shown.text)
    return (f"**{text}**" if shown.bold else text) + (escaped(words.STAR) if shown.star else "")
