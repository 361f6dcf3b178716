"""An ablation as one page of HTML that needs nothing else: no network, no other file, and no script to be read."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from forgetkit.results import plots
from forgetkit.results.outcome import Outcomes
from forgetkit.results.render.html import format_block
from forgetkit.results.render.table_document import difference_sheets, main_sheet, remarks
from forgetkit.results.report import analysis_sections
from forgetkit.results.report.report_data import gather_report_data
from forgetkit.results.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["render_page"]


def render_page(outcomes: Outcomes, table: Table, figures: Mapping[str, Figure] | None) -> str:
    """The page: summary, table, pictures, analyses, configurations, overrides, provenance.

    ``figures`` are ``plots.pictures(outcomes)``, None where matplotlib is missing; the page then says how to get them.
    The same input gives the same bytes; whatever users, plugins and exceptions have written is shown as text.
    """
    style, script = _part("page.css"), _part("page.js")
    captions = plots.captions(outcomes)
    drawn = None if figures is None else [_Picture.of(name, figure, captions) for name, figure in figures.items()]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = _with_breaks
    return environment.from_string(_part("page.html")).render(
        facts=gather_report_data(outcomes),
        table=_main_table(table),
        remarks=_remarks(table),
        differences=_differences(table),
        pictures=None if drawn is None else [picture for picture in drawn if picture.name in plots.CAPTIONS],
        analyses=[
            _Analysis.of(one, drawn or []) for one in analysis_sections.analysis_sections(outcomes, _baseline(table))
        ],
        missing=plots.MISSING,
        command=_visible_text(outcomes.command),
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def _main_table(table: Table) -> Markup:
    return Markup(format_block(main_sheet(table)))


def _remarks(table: Table) -> Markup:
    return Markup(format_block(remarks(table)))


def _differences(table: Table) -> Markup:
    return Markup("".join(map(format_block, difference_sheets(table))))


def _visible_text(text: str) -> str:
    """A command as it is, but for what would reorder or hide a part of it from whoever copies it."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def _with_breaks(text: str) -> Markup:
    """A text that may go on in the next line after a comma, a colon or a slash, and not within a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[,:/])(?=\S)", text))


def _baseline(table: Table) -> dict[str, str] | None:
    return None if table.baseline is None else dict(zip(table.axes, table.baseline.labels, strict=True))


@dataclass(frozen=True)
class _Picture:
    name: str
    drawing: Markup
    caption: str
    wide: bool

    @classmethod
    def of(cls, name: str, figure: Figure, captions: Mapping[str, str]) -> _Picture:
        caption = captions[name]
        return cls(name, Markup(plots.svg(figure, name, caption)), caption, figure.get_figwidth() > 1.4 * plots.WIDTH)


@dataclass(frozen=True)
class _Analysis:
    facts: analysis_sections.AnalysisSection
    table: Markup
    legend: Markup
    differences: Markup
    pictures: Sequence[_Picture]

    @classmethod
    def of(cls, facts: analysis_sections.AnalysisSection, drawn: Sequence[_Picture]) -> _Analysis:
        parts = [part(facts.table) if facts.table else Markup() for part in (_main_table, _remarks, _differences)]
        return cls(facts, *parts, [one for one in drawn if one.name.partition(".")[0] == facts.label])


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """What the page's policy allows to act, and nothing else."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
