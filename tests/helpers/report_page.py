"""The report read back by html.parser."""

from __future__ import annotations

from html.parser import HTMLParser

from forgetkit.results import plots
from forgetkit.results.outcome import Outcomes
from forgetkit.results.report import render_page
from forgetkit.results.table import make_table

VOID = {"meta", "link", "br", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes, texts by the section and by the element they stand in; balanced, or it raises."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.section = ""
        self.goes_on = False
        self.texts: dict[str, list[str]] = {}
        self.inside: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.goes_on = tag == "wbr"
        if tag == "section":
            self.section = dict(attrs)["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        if data.strip():
            texts = self.texts.setdefault(self.section, [])
            before = texts.pop() if self.goes_on else ""
            texts.append(before + " ".join(data.split()))
            self.goes_on = False
            self.inside.setdefault(self.open[-1], []).append(data)


def read(outcomes: Outcomes, *, drawn: bool = True) -> Page:
    return Page(render_page(outcomes, make_table(outcomes), plots.draw_pictures(outcomes) if drawn else None))
