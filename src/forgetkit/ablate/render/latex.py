"""Tables for papers: a tabular of booktabs and its legend, to be read in with ``\\input``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from forgetkit.ablate.render import words
from forgetkit.ablate.table import Table

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
    axes = [escaped(words.plain(axis)) for axis in table.axes]
    heads = [_stacked(words.heading(column), _HEAD, "b", "r") for column in table.columns]
    lines = [
        f"% {words.plain(table.title)}",
        r"% Needs \usepackage{booktabs,graphicx}.",
        r"\noindent\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{'l' * len(table.axes)}{'r' * len(table.columns)}@{{}}}}",
        r"\toprule",
        _line([*axes, *heads]),
        r"\midrule",
        *_body(table),
        r"\bottomrule",
        r"\end{tabular}}",
        "",
        r"\smallskip",
        r"{\footnotesize\raggedright",
        *(rf"{escaped(line)}\par" for line in [*words.legend(table), *words.notes(table)]),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _body(table: Table) -> Iterator[str]:
    grouped = any(row.repeats for row in table.rows)
    for place, (row, entries) in enumerate(zip(table.rows, words.shown(table), strict=True)):
        if grouped and place and row.repeats == 0:
            yield r"\addlinespace"
        labels = [_stacked(label, _LABEL, "t", "l") for label in words.labels(row)]
        yield _line([*labels, *map(_figure, entries)])


def _stacked(text: str, width: int, place: str, side: str) -> str:
    """Text in lines, set as a small tabular where it takes more than one."""
    lines = [escaped(line) for line in words.broken(text, width)]
    stack = r"\\".join(lines)
    return stack if len(lines) == 1 else rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}{stack}\end{{tabular}}"


def _line(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _figure(shown: words.Shown) -> str:
    text = re.sub(r"-(?=\d)", "$-$", escaped(shown.text))
    return (rf"\textbf{{{text}}}" if shown.bold else text) + (rf"$^{{{words.STAR}}}$" if shown.star else "")


def escaped(text: str) -> str:
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
