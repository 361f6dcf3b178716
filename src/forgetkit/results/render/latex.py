r"""Tables for papers: a tabular of booktabs and its legend, to be read in with ``\input``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from forgetkit.results.line_breaks import break_lines
from forgetkit.results.render.document import Document, Heading, Remarks, Sheet, TextCell
from forgetkit.results.render.formatting import STAR

_LETTERS = {
    # Characters that TeX acts on. Brackets and stars could become an option of the \\ before them.
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
    # Characters that its old fonts have elsewhere, or join with a neighbour.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "`": r"\textasciigrave{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    # Characters with a command in every engine.
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


_HEAD, _LABEL = 14, 24  # letters to a line of a heading and of a label


def format_document(document: Document) -> str:
    """Write the sheets as tabulars, and the remarks in small print."""
    packages = "booktabs,graphicx" if document.fit else "booktabs"
    lines = [rf"% Needs \usepackage{{{packages}}}."]
    for place, block in enumerate(document.blocks):
        if isinstance(block, Heading):
            lines += ["", r"\medskip", rf"{escape(block.text)}\par"]
        elif isinstance(block, Remarks):
            small = r"{\footnotesize\raggedright" if document.fit else r"{\footnotesize"
            lines += ["", r"\smallskip", small, *(rf"{escape(line)}\par" for line in (*block.lines, *block.notes)), "}"]
        else:
            if place == 0:
                lines.insert(0, f"% {block.title}")
            elif block.title:
                lines += ["", r"\medskip", rf"\noindent {escape(block.title)}\par\smallskip"]
            lines += _tabular(block, fit=document.fit)
    return "\n".join(lines) + "\n"


def _tabular(sheet: Sheet, *, fit: bool) -> Iterator[str]:
    """Lines of a tabular; with ``fit`` at most as wide as the line, with space between groups, long texts broken."""
    breaks_heads = fit and not sheet.differences
    heads = (
        _stack_lines(head, _HEAD, "b", "r") if breaks_heads and column.kind == "number" else escape(head)
        for column, head in zip(sheet.columns, sheet.heads, strict=True)
    )
    if fit:
        yield r"\noindent\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    sides = "".join("r" if column.kind == "number" else "l" for column in sheet.columns)
    yield from (rf"\begin{{tabular}}{{@{{}}{sides}@{{}}}}", r"\toprule", _line(heads), r"\midrule")
    spaced = fit and (sheet.differences or any(row.repeats for row in sheet.rows))
    for place, row in enumerate(sheet.rows):
        if spaced and place and row.repeats == 0:
            yield r"\addlinespace"
        labels, others = row.shown[: sheet.labels], row.shown[sheet.labels :]
        names = (_stack_lines(cell.text, _LABEL, "t", "l") if fit else _cell(cell) for cell in labels)
        yield _line([*names, *map(_cell, others)])
    yield from (r"\bottomrule", r"\end{tabular}}" if fit else r"\end{tabular}")


def _line(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _cell(cell: TextCell) -> str:
    """With minus signs in place of hyphens before figures."""
    text = re.sub(r"-(?=\d)", "$-$", escape(cell.text))
    return (rf"\textbf{{{text}}}" if cell.bold else text) + (rf"$^{{{STAR}}}$" if cell.star else "")


def _stack_lines(text: str, width: int, place: str, side: str) -> str:
    """Text in lines, set as a small tabular if it takes more than one."""
    lines = [escape(line) for line in break_lines(text, width)]
    stack = r"\\".join(lines)
    return stack if len(lines) == 1 else rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}{stack}\end{{tabular}}"


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
