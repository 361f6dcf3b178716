r"""Tables for papers: a tabular of booktabs and its legend, to be read in with ``\input``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from forgetkit.results.line_breaks import break_lines
from forgetkit.results.render import formatting
from forgetkit.results.table import Table, TableRow

_LETTERS = {
    # What TeX would act on. Brackets and stars could be taken for an option of the \\ before them.
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # What its old fonts have elsewhere, or join with a neighbour.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "`": r"\textasciigrave{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    # What every engine can set, in its own words.
    "±": r"$\pm$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
}
_ACCENTS = {
    "\u0300": r"\`",
    "\u0301": r"\'",
    "\u0302": r"\^",
    "\u0303": r"\~",
    "\u0304": r"\=",
    "\u0306": r"\u",
    "\u0307": r"\.",
    "\u0308": r"\"",
    "\u030a": r"\r",
    "\u030b": r"\H",
    "\u030c": r"\v",
    "\u0327": r"\c",
}


_HEAD = 14
_LABEL = 24
"""Letters to a line of a heading and of a label."""


def render(table: Table) -> str:
    """A tabular with a little space between groups, then the legend and the notes in small print.

    Headings and labels are broken where they are long; a table that is still wider than the line is made smaller.
    """
    heads = [_stack_lines(formatting.heading(column), _HEAD, "b", "r") for column in table.columns]
    lines = [
        f"% {formatting.one_line(table.title)}",
        r"% Needs \usepackage{booktabs,graphicx}.",
        *_tabular(table, "r" * len(heads), heads, _body(table)),
        "",
        r"\smallskip",
        r"{\footnotesize\raggedright",
        *(rf"{escape(line)}\par" for line in [*formatting.legend(table), *formatting.notes(table)]),
        "}",
        *_differences(table),
    ]
    return "\n".join(lines) + "\n"


def _tabular(table: Table, shape: str, heads: Sequence[str], body: Iterable[str]) -> Iterator[str]:
    """Lines of a tabular whose first columns are the axes; ``shape`` is that of the others."""
    yield r"\noindent\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{@{{}}{'l' * len(table.axes)}{shape}@{{}}}}"
    yield r"\toprule"
    yield _line([*(escape(formatting.one_line(axis)) for axis in table.axes), *heads])
    yield r"\midrule"
    yield from body
    yield r"\bottomrule"
    yield r"\end{tabular}}"


def _body(table: Table) -> Iterator[str]:
    grouped = any(row.repeats for row in table.rows)
    for place, (row, entries) in enumerate(zip(table.rows, formatting.format_entries(table), strict=True)):
        if grouped and place and row.repeats == 0:
            yield r"\addlinespace"
        yield _line([*_labels(formatting.labels(row)), *map(_figure, entries)])


def _differences(table: Table) -> Iterator[str]:
    """A paragraph that says from what, then a tabular with a line per arm and number."""
    compared = formatting.format_differences(table)
    if not compared:
        return
    yield from ("", r"\medskip", rf"\noindent {escape(formatting.differences_title(table))}\par\smallskip")
    yield from _tabular(
        table, "lrrl", list(map(escape, ("number", *formatting.difference_heads(table)))), _lines(compared)
    )


def _lines(compared: Sequence[tuple[TableRow, Sequence[formatting.FormattedDifference]]]) -> Iterator[str]:
    for place, (row, numbers) in enumerate(compared):
        if place:
            yield r"\addlinespace"
        labels = [formatting.one_line(label) for label in row.labels]
        for one in numbers:
            yield _line([*_labels(labels), _stack_lines(one.number, _LABEL, "t", "l"), *map(_escape_signed, one.said)])
            labels = [""] * len(labels)


def _labels(labels: Iterable[str]) -> list[str]:
    return [_stack_lines(label, _LABEL, "t", "l") for label in labels]


def _stack_lines(text: str, width: int, place: str, side: str) -> str:
    """Text in lines, set as a small tabular where it takes more than one."""
    lines = [escape(line) for line in break_lines(text, width)]
    stack = r"\\".join(lines)
    return stack if len(lines) == 1 else rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}{stack}\end{{tabular}}"


def _line(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _figure(shown: formatting.FormattedEntry) -> str:
    text = _escape_signed(shown.text)
    return (rf"\textbf{{{text}}}" if shown.bold else text) + (rf"$^{{{formatting.STAR}}}$" if shown.star else "")


def _escape_signed(text: str) -> str:
    """Escaped, with minus signs in place of hyphens before figures."""
    return re.sub(r"-(?=\d)", "$-$", escape(text))


def escape(text: str) -> str:
    """Any text as TeX that sets it, with pdfTeX as with engines that know Unicode."""
    return re.sub("-(?=-)", "-{}", "".join(map(_letter, text)))  # two hyphens would become a dash


def _letter(letter: str) -> str:
    if letter in _LETTERS:
        return _LETTERS[letter]
    if letter.isascii():
        return letter
    base, accent = unicodedata.normalize("NFD", letter)[:1], unicodedata.normalize("NFD", letter)[1:]
    if base.isascii() and accent in _ACCENTS:
        return f"{_ACCENTS[accent]}{{{base}}}"
    # pdfTeX stops at a letter that it has no font for; it shows the code point instead.
    return rf"\ifdefined\Umathchar {letter}\else U+{ord(letter):04X}\fi{{}}"
