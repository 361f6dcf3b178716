"""One line per record for other programs, with numbers at full precision."""

from __future__ import annotations

import csv
import io
from typing import Any

from forgetkit.results.render.document import Document

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def format_document(document: Document) -> str:
    """Write the records; None is an empty field.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO()
    # Quotes keep a text with a lone carriage return on one line.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows(map(_escape_formula, record) for record in document.records)
    return text.getvalue()


def _escape_formula(value: Any) -> Any:
    """Put an apostrophe before a formula; a text that is a number, like ``-1``, stays as it is."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
