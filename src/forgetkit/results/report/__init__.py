"""An ablation as one page of HTML, without network, other files, or a script that reading needs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from forgetkit.results import plots
from forgetkit.results.outcome import Outcomes
from forgetkit.results.render.html import format_block
from forgetkit.results.render.table_document import difference_sheets, main_sheet, remarks
from forgetkit.results.report.analysis_sections import analysis_sections
from forgetkit.results.report.report_data import gather_report_data
from forgetkit.results.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["render_page"]


def render_page(outcomes: Outcomes, table: Table, figures: Mapping[str, Figure] | None) -> str:
    """Return the page: summary, table, pictures, analyses, configurations, overrides, provenance.

    ``figures`` come from ``plots.draw_pictures(outcomes)``; None if matplotlib is missing, and the page says how to
    install it. The same input gives the same bytes. Texts of users, plugins and exceptions are escaped.
    """
    style, script = _part("page.css"), _part("page.js")
    captions = plots.captions(outcomes)
    pictures = [_Picture.of(name, figure, captions[name]) for name, figure in (figures or {}).items()]
    by_label: dict[str, list[_Picture]] = {}
    for picture in pictures:
        by_label.setdefault(picture.name.partition(".")[0], []).append(picture)
    baseline = None if table.baseline is None else dict(zip(table.axes, table.baseline.labels, strict=True))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"breakable": _with_breaks, "parts": _TableParts.of}
    return environment.from_string(_part("page.html")).render(
        data=gather_report_data(outcomes),
        table=table,
        pictures=None if figures is None else [picture for picture in pictures if picture.name in plots.CAPTIONS],
        analyses=analysis_sections(outcomes, baseline),
        charts=by_label,
        missing=plots.MISSING,
        command=_visible_text(outcomes.command),
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def _visible_text(text: str) -> str:
    """A command without the control characters that could hide or reorder a part of it."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def _with_breaks(text: str) -> Markup:
    """A text that may break after a comma, a colon or a slash, and not within a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[,:/])(?=\S)", text))


@dataclass(frozen=True)
class _Picture:
    name: str
    drawing: Markup
    caption: str
    wide: bool

    @classmethod
    def of(cls, name: str, figure: Figure, caption: str) -> _Picture:
        return cls(name, Markup(plots.svg(figure, name, caption)), caption, figure.get_figwidth() > 1.4 * plots.WIDTH)


@dataclass(frozen=True)
class _TableParts:
    main: Markup
    remarks: Markup
    differences: Markup

    @classmethod
    def of(cls, table: Table) -> _TableParts:
        blocks = [main_sheet(table)], [remarks(table)], difference_sheets(table)
        return cls(*(Markup("".join(map(format_block, part))) for part in blocks))


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A source that the page's Content-Security-Policy allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
