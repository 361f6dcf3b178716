"""Numbers from scalars of NumPy and torch."""

from __future__ import annotations

import numbers
from typing import Any


def as_number(value: Any) -> int | float:
    """Convert a scalar of NumPy or torch, or an array without dimensions, to a plain number.

    Args:
        value: An int, a float, a NumPy scalar, a zero-dimensional array or tensor on any device, a fraction.

    Returns:
        An int for an integer type, else a float, which may be NaN or infinite.

    Raises:
        TypeError: The value is no real number. A bool is none, and neither is an array with one element.

    Example:
        >>> as_number(np.float32(0.5)), as_number(torch.tensor(3))
        (0.5, 3)
    """
    item = getattr(value, "item", None)
    scalar = item() if callable(item) and getattr(value, "ndim", None) == 0 else value
    if not isinstance(scalar, bool):
        if isinstance(scalar, numbers.Integral):
            return int(scalar)
        if isinstance(scalar, numbers.Real):
            return float(scalar)
    shape = getattr(value, "shape", ())
    of = f" of shape {tuple(shape)}" if len(shape) else ""
    raise TypeError(f"{type(value).__name__}{of}, not a number")
