"""A table with all its numbers, for other programs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from forgetkit.results.render.document import Document
from forgetkit.results.statistics import Judgement
from forgetkit.results.table import Column


def format_document(document: Document) -> str:
    """Write the content as one indented object."""
    return json.dumps(document.content, indent=2, allow_nan=False) + "\n"


def column_content(column: Column) -> dict[str, Any]:
    """What describes a column."""
    return {"key": column.key, "title": column.title, "unit": column.unit, "higher_is_better": column.higher_is_better}


def judgement_content(judgement: Judgement) -> dict[str, Any]:
    """A comparison with its corrected p value and verdict."""
    return {
        **dataclasses.asdict(judgement.comparison),
        "adjusted": judgement.adjusted,
        "verdict": judgement.verdict,
    }
