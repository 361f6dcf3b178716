"""Lines of a text. This module imports no torch, so that the command line starts fast."""

from __future__ import annotations

import re


def break_lines(text: str, width: int) -> list[str]:
    """Break after spaces, commas and colons, into lines of ``width`` letters if possible; joined, they are the text."""
    lines = [""]
    for piece in re.split(r"(?<=[ ,:])", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return lines
