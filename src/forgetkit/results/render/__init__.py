"""A table as text: one format per module, the same table always the same bytes."""

from __future__ import annotations

from forgetkit.errors import OptionError, suggest
from forgetkit.results.render import csv, html, json, latex, markdown
from forgetkit.results.table import Table

__all__ = ["FORMATS", "render"]

FORMATS = ("markdown", "latex", "csv", "json", "html")


def render(table: Table, form: str) -> str:
    """``table`` in one of ``FORMATS``, with a newline at the end."""
    renderers = {
        "markdown": markdown.render,
        "latex": latex.render,
        "csv": csv.render,
        "json": json.render,
        "html": html.render,
    }
    if form not in renderers:
        raise OptionError(f"there is no format '{form}'; {suggest(form, FORMATS)}")
    return renderers[form](table)
