"""Pages and tables show the text of users, plugins and exceptions as text only.

The oracle is a page of harmless names: other names change texts, but no element, attribute or policy.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from helpers import fake_outcomes
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from forgetkit.results import plots
from forgetkit.results.outcome import Outcome, Outcomes
from forgetkit.results.render import render
from forgetkit.results.report import render_page
from forgetkit.results.table import make_table

ATTACKS = [
    "</script><script>alert(1)</script>",
    "</style><style>*{background:url(//x)}</style>",
    "<!-- <svg onload=alert(1)>",
    "]]><img src=x onerror=alert(1)>",
    "\" onmouseover=\"alert(1)' autofocus='",
    "javascript:alert(1)",
    "a\u2028b\u2029c",
    "\x1b]0;title\x07\x1b[2J",
    "\u202egnp.exe",
    '=HYPERLINK("//x")',
    "@SUM(1)|cmd",
    "[link=//x]x[/link] [/] [bold",
    "{{ 7*7 }}{% raw %}",
    "$\\frac{$ \\write18{x} \\input{/etc/passwd} %",
    "![x](javascript:x) <b>`|`",
    "&lt;b&gt;&#60;",
]
texts = st.text(min_size=1, max_size=20) | st.sampled_from(ATTACKS)


def outcomes(text: str) -> Outcomes:
    """Outcomes with ``text`` in every place: two arms, and a failed cell."""
    result = fake_outcomes.result(0, {"method": "a"}, batches=3, run=text)
    result["method"] = text
    result["versions"] = {f"v{text}": text, "plugins": {f"p{text}": text}}
    result["config"] = {f"o{text}": [text, {f"k{text}": text}], "model": text, "dataset": text}
    result["overrides"] = {f"d{text}": {"value": text, "preset": text}}
    result["preset"] = text
    for row in result["mega_batches"][:-1]:
        row["unlearn"]["layers"][f"l{text}"] = {"size": 10, "reset": 5}
    other = fake_outcomes.result(0, {"method": "b"}, batches=3)
    axis = f"x{text}"
    arms = [{axis: f"1{text}", "y": "1"}, {axis: "b", "y": "2"}]
    cells = (
        Outcome(arms[0], 0, "ab" * 32, "completed", result),
        Outcome(arms[1], 0, "cd" * 32, "completed", other),
        Outcome(arms[1], 1, "ef" * 32, "failed", None, text),
    )
    return Outcomes(text, (axis, "y"), cells, arms[0], f"forgetkit ablate {text}")


class Shape(HTMLParser):
    """The elements with their attribute names, the values that can act, and everything that is no element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.acting: list[object] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        if tag == "wbr":  # a line break opportunity
            return
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.acting += [value for name, value in attrs if name in ("http-equiv", "content", "href", "src", "style")]

    def handle_endtag(self, tag):
        if tag != "wbr":
            self.elements.append((f"/{tag}", ()))
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("script", "style"):
            self.acting.append(data)

    def handle_comment(self, data):
        self.elements.append(("comment", ()))

    def unknown_decl(self, data):
        self.elements.append(("declaration", ()))

    handle_pi = unknown_decl


def whole(text: str) -> str:
    found = outcomes(text)
    return render_page(found, make_table(found), None)


HARMLESS = Shape(whole("name"))


def acts(text: str) -> set[str]:
    """Characters that control a terminal or reorder text."""
    return {letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}


@pytest.mark.slow
@given(texts)
@example("".join(ATTACKS))
def test_a_page_has_the_shape_of_a_harmless_one(text):
    written = whole(text)
    shape = Shape(written)
    if text.strip() and any(letter.isprintable() and not letter.isspace() for letter in text):
        assert shape.elements == HARMLESS.elements
    assert shape.acting == HARMLESS.acting
    assert not acts(written)


@pytest.mark.slow
def test_so_do_its_pictures():
    def drawn(text: str) -> Shape:
        found = outcomes(text)
        return Shape("".join(plots.svg(figure, name, text) for name, figure in plots.draw_pictures(found).items()))

    plain, shape = drawn("name"), drawn("".join(ATTACKS))
    assert {tag for tag, _ in shape.elements} == {tag for tag, _ in plain.elements}
    names = {name for _, names in shape.elements for name in names}
    assert names - {name for _, names in plain.elements for name in names} <= {"transform", "text-anchor"}
    assert all(str(value).startswith(("#", "data:image/png;base64,")) for value in shape.acting)


@pytest.mark.slow
@given(texts)
@example("".join(ATTACKS))
def test_tables_hold_no_markup_of_others(text):
    found = outcomes(text)
    table = make_table(found)
    assert Shape(render(table, "html")).acting == []
    assert {tag for tag, _ in Shape(render(table, "html")).elements} == TAGS
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(render(table, "markdown"))
    kinds = {token.type for one in tokens for token in [one, *(one.children or [])]}
    assert not kinds & {"link_open", "image", "html_inline", "html_block", "code_inline", "fence", "autolink"}
    assert json.loads(render(table, "json"))
    assert not acts(render(table, "json"))
    assert not acts(render(table, "latex"))
    assert not acts(render(table, "markdown"))


TAGS = {tag for tag, _ in Shape(render(make_table(outcomes("name")), "html")).elements}
SPELLED = {
    *("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "symbol"),
    *("textasciigrave", "ifdefined", "Umathchar", "else", "fi"),
}
"""Commands that spell a character."""


def tex(text: str) -> tuple[set[str], int]:
    """The commands in a table, and its number of unclosed braces."""
    written = "\n".join(
        line for line in render(make_table(outcomes(text)), "latex").splitlines() if not line.startswith("%")
    )
    tokens = re.findall(r"\\(?:[A-Za-z]+|.)|[{}]", written, re.DOTALL)
    return {token[1:] for token in tokens if token[1:].isalpha()}, tokens.count("{") - tokens.count("}")


OURS, _ = tex("name")


@pytest.mark.parametrize("text", ATTACKS)
def test_tex_carries_nothing_out(text):
    """Every command is forgetkit's or spells a character, and braces balance."""
    commands, opened = tex(text)
    assert commands <= OURS | SPELLED
    assert opened == 0


@given(texts)
def test_no_cell_of_a_csv_is_a_formula(text):
    rows = list(csv.reader(io.StringIO(render(make_table(outcomes(text)), "csv"), newline="")))
    assert len({len(row) for row in rows}) == 1
    for cell in (cell for row in rows for cell in row):
        if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
            float(cell)
