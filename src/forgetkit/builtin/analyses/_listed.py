"""Lists as a SPEC writes them: ``fog+snow``, ``1/255+8/255``."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


def join_words(written: Any) -> Any:
    """``"fog+snow"`` is a list of two, a number a list of one; what is a list already, or JSON, stays."""
    if isinstance(written, int | float) and not isinstance(written, bool):
        return [written]
    return written.split("+") if isinstance(written, str) and not written.startswith("[") else written


def format_number(written: Any) -> Any:
    """``"8/255"`` is the number that it names; what names none stays as it is."""
    try:
        return float(Fraction(written)) if isinstance(written, str) and "/" in written else written
    except (ValueError, ZeroDivisionError):
        return written
