"""Lists in a SPEC: ``fog+snow``, ``1/255+8/255``."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


def split_list(written: Any) -> Any:
    """Turn ``"fog+snow"`` into a list of two, a number into a list of one, ``"none"`` into None; keep anything else."""
    if written == "none":
        return None
    if isinstance(written, int | float) and not isinstance(written, bool):
        return [written]
    return written.split("+") if isinstance(written, str) and not written.startswith("[") else written


def parse_fraction(written: Any) -> Any:
    """Turn ``"8/255"`` into a number; keep anything else."""
    try:
        return float(Fraction(written)) if isinstance(written, str) and "/" in written else written
    except (ValueError, ZeroDivisionError):
        return written
