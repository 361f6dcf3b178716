"""Tables for GitHub."""

from __future__ import annotations

import re
from collections.abc import Iterable

from forgetkit.ablate.render import words
from forgetkit.ablate.table import Table


def render(table: Table) -> str:
    """Title, table, legend, a list of notes."""
    heads = [*map(words.plain, table.axes), *map(words.heading, table.columns)]
    lines = [f"**{_escaped(words.plain(table.title))}**", ""] if words.plain(table.title) else []
    lines.append(_line(map(_escaped, heads)))
    lines.append(_line([":--"] * len(table.axes) + ["--:"] * len(table.columns)))
    for row, entries in zip(table.rows, words.shown(table), strict=True):
        lines.append(_line([*map(_escaped, words.labels(row)), *map(_figure, entries)]))
    lines += ["", *map(_escaped, words.legend(table))]
    notes = words.notes(table)
    if notes:
        lines += ["", *(f"- {_escaped(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(shown: words.Shown) -> str:
    text = _escaped(shown.text)
    return (f"**{text}**" if shown.bold else text) + (_escaped(words.STAR) if shown.star else "")


def _escaped(text: str) -> str:
    """What could be read as markup stands for itself; a sign at the start would begin a list."""
    return re.sub(r"[\\`*_\[\]<>|~&$#]|^[-+](?!\d)", r"\\\g<0>", text)
