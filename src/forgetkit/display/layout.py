"""Tables and bars for a terminal of any width: no word is cut, and rows become blocks if columns do not fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from forgetkit.results.line_breaks import break_lines

_GAP = 2
_SHORT = 16
"""The most letters of values that share a line in a block."""
_DEEP = 8
"""A text of so many lines is shown in a block, not in a column."""

_SHORTEST_BAR = 4
_ECHO = 2
"""Columns that bars leave free: a terminal writes ``^C`` there, and a line that it broke could not be erased."""


@dataclass(frozen=True)
class Bar:
    """A progress bar: its name, the fraction that is done, and texts, the most important first."""

    name: str
    share: float
    parts: Sequence[str]
    style: str = ""


def bars(width: int, height: int, shown: Sequence[Bar], note: str = "") -> RenderableType:
    """Bars below each other, with ``note`` below them.

    Args:
        width: Columns of the terminal.
        height: Its rows; the first bars are left out if there are too few.
        shown: The bars.
        note: A sentence, or nothing.

    Returns:
        A line for each bar: its name, the bar, and as many parts as fit. If a name does not fit, names stand above
        their bars. No word is cut.
    """
    width -= _ECHO
    first = max((cell_len(bar.parts[0]) for bar in shown), default=0)
    names = max((cell_len(bar.name) for bar in shown), default=0)
    beside = names + first + _SHORTEST_BAR + 2 <= width
    text_width = width - _SHORTEST_BAR - 1 - (names + 1 if beside else 0)
    texts = [_fitting(bar.parts, text_width) for bar in shown]
    wide = max(map(cell_len, texts), default=0)
    pieces: list[list[RenderableType]] = []
    for bar, text in zip(shown, texts, strict=True):
        line = Table.grid(padding=(0, 1, 0, 0))
        cells: list[RenderableType] = [Text(bar.name, bar.style)] if beside else []
        for columns in (*([names] if beside else []), max(1, text_width + _SHORTEST_BAR - wide), wide):
            line.add_column(width=columns, no_wrap=True)
        line.add_row(*cells, ProgressBar(total=1, completed=bar.share), Text(text))
        above = [] if beside else fold_text(bar.name, width).splitlines()
        pieces.append([*(Text(piece, bar.style) for piece in above), line])
    below = [Text(line) for line in fold_text(note, width).splitlines()]
    while len(pieces) > 1 and sum(map(len, pieces)) + len(below) >= height:
        del pieces[0]
    return Group(*(line for piece in pieces for line in piece), *below)


def _fitting(parts: Sequence[str], width: int) -> str:
    """Join as many parts as fit, at least the first."""
    count = len(parts)
    while count > 1 and cell_len("  ".join(parts[:count])) > width:
        count -= 1
    return "  ".join(parts[:count])


def table(
    width: int,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    bold: Collection[int] = (),
    title: str = "",
    show_heads: bool = True,
) -> RenderableType:
    """Rows under heads, in columns that are as wide as ``width`` allows.

    Args:
        width: Columns of the terminal.
        heads: A name for each column.
        rows: Texts, one for each head.
        right: Positions of columns that are right-aligned and do not break, such as figures.
        bold: Positions of columns in bold.
        title: A line above.
        show_heads: Whether the names are shown above columns; blocks show them in any case.

    Returns:
        A table whose texts break between words and after commas and colons. If the longest words do not fit beside
        each other, a block for each row: its first text, and below it the others with their names.
    """
    columns = [[*([head] if show_heads else []), *(row[place] for row in rows)] for place, head in enumerate(heads)]
    least = [max(_longest(text) for text in column) for column in columns]
    for place in right:
        least[place] = max([_longest(heads[place]), *(cell_len(row[place]) for row in rows)])
    text_width = width - _GAP * (len(heads) - 1)
    above = [Text(title, "bold")] if title else []
    if sum(least) > text_width:
        return Group(*above, *block_list(width, heads, rows))
    widths = _share_width(least, [max(map(_widest, column)) for column in columns], text_width)
    cells = [(text, wide) for row in rows for text, wide in zip(row, widths, strict=True)]
    if any(fold_text(text, wide).count("\n") - text.count("\n") >= _DEEP for text, wide in cells):
        return Group(*above, *block_list(width, heads, rows))
    made = Table(
        box=box.SIMPLE_HEAD if show_heads else None,
        show_edge=False,
        padding=(0, _GAP - (1 if show_heads else 0), 0, 0),
        pad_edge=False,
        show_header=show_heads,
    )
    for place, head in enumerate(heads):
        justify: Literal["left", "right"] = "right" if place in right else "left"
        style = "bold" if place in bold else ""
        made.add_column(Text(fold_text(head, widths[place])), justify=justify, width=widths[place], style=style)
    for row in rows:
        made.add_row(*(Text(fold_text(text, wide)) for text, wide in zip(row, widths, strict=True)))
    return Group(*above, made)


def block_list(width: int, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Text]:
    """Make a block for each row; its first text is its name."""
    found: list[Text] = []
    for first, *rest in rows:
        pairs = [(head, text) for head, text in zip(heads[1:], rest, strict=True) if text.strip()]
        if found:
            found.append(Text())
        name = first if heads[0] == "" or not first.isdecimal() else f"{heads[0]} {first}"
        found.append(Text(hanging_indent(name, width), "bold"))
        if all(cell_len(text) <= _SHORT for _, text in pairs):
            found.append(
                Text(hanging_indent(", ".join(f"{head} {text}".strip() for head, text in pairs), width, "  ", "  "))
            )
        else:
            found += [
                Text(hanging_indent(f"{head}: {text}" if head else text, width, "  ", "    ")) for head, text in pairs
            ]
    return found


def listing(width: int, entries: Mapping[str, str]) -> RenderableType:
    """Make a list of names with a sentence about each."""
    return table(width, ("", ""), list(entries.items()), show_heads=False)


def hanging_indent(text: str, width: int, first: str = "", rest: str = "") -> str:
    """Fold a text to ``width`` letters; the first line begins with ``first``, the others with ``rest``."""
    lines = fold_text(text, max(1, width - max(len(first), len(rest)))).splitlines() or [""]
    return "\n".join([first + lines[0], *(rest + line for line in lines[1:])])


def fold_text(text: str, width: int) -> str:
    """Fold each line of a text to ``width`` letters, after spaces, commas and colons alone."""
    return "\n".join(piece.rstrip() for line in text.split("\n") for piece in break_lines(line, width))


def _longest(text: str) -> int:
    """Return the letters of the longest piece that does not break."""
    return _widest(fold_text(text, 1))


def _widest(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _share_width(least: Sequence[int], natural: Sequence[int], width: int) -> list[int]:
    """Return widths between the least and the natural ones; the widest shrinks first."""
    widths = [max(pair) for pair in zip(least, natural, strict=True)]
    while sum(widths) > width:
        able = [place for place, wide in enumerate(widths) if wide > least[place]]
        widths[max(able, key=widths.__getitem__)] -= 1
    return widths
