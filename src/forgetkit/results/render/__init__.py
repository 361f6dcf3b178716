"""A table as text: one format per module, the same table always the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

from forgetkit.errors import OptionError, suggest
from forgetkit.results.render import csv, html, json, latex, markdown
from forgetkit.results.render.document import Document
from forgetkit.results.render.table_document import table_document
from forgetkit.results.table import Table

__all__ = ["FORMATS", "format_document", "render"]

_FORMATTERS = {
    "markdown": markdown.format_document,
    "latex": latex.format_document,
    "csv": csv.format_document,
    "json": json.format_document,
    "html": html.format_document,
}
FORMATS = tuple(_FORMATTERS)


def render(table: Table, form: str) -> str:
    """Return ``table`` in one of ``FORMATS``, with a newline at the end."""
    require_format(form)
    return format_document(table_document(table), form)


def format_document(document: Document, form: str) -> str:
    """Return ``document`` in one of ``FORMATS``, with a newline at the end."""
    return _FORMATTERS[form](document)


def require_format(form: str, formats: Sequence[str] = FORMATS) -> None:
    """Raise ``OptionError`` if ``form`` is none of ``formats``."""
    if form not in formats:
        raise OptionError(f"there is no format '{form}'; {suggest(form, formats)}")
