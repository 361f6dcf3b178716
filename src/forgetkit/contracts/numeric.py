"""Numbers that other people's code returns."""

from __future__ import annotations

import numbers
from typing import Any


def as_number(value: Any) -> int | float:
    """The plain number that a scalar of NumPy or torch, or an array of no dimensions, holds.

    Args:
        value: An int, a float, a NumPy scalar, a zero-dimensional array or tensor on any device, a fraction.

    Returns:
        An int where the value is a whole-number type, else a float. It may be NaN or infinite.

    Raises:
        TypeError: The value is no single real number. A truth value is none; nor is an array of one element.
    """
    item = getattr(value, "item", None)
    held = item() if callable(item) and getattr(value, "ndim", None) == 0 else value
    if not isinstance(held, bool):
        if isinstance(held, numbers.Integral):
            return int(held)
        if isinstance(held, numbers.Real):
            return float(held)
    shape = getattr(value, "shape", ())
    of = f" of shape {tuple(shape)}" if len(shape) else ""
    raise TypeError(f"{type(value).__name__}{of}, not a number")
