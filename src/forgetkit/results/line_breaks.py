"""Lines of a text. This module imports no torch, so that the command line can use it at once."""

from __future__ import annotations

import re


def break_lines(text: str, width: int) -> list[str]:
    """Lines of ``width`` letters where spaces, commas and colons allow it; joined again they are the text."""
    lines = [""]
    for piece in re.split(r"(?<=[ ,:])", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return lines
