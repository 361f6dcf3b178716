"""A number of samples: a count or a share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from forgetkit.contracts.numeric import as_number


def parse_number(given: Any) -> Any:
    """Convert text to a number.

    Args:
        given: Text, a number, or any other value.

    Returns:
        An int for ``1``, a float for ``0.2``, ``1.0`` or ``1e3``; any value that is no number, unchanged.

    Example:
        >>> parse_number("1"), parse_number("1e3"), parse_number("all")
        (1, 1000.0, 'all')
    """
    if not isinstance(given, str):
        try:
            return as_number(given)
        except TypeError:
            return given
    try:
        return float(given) if set(given.lower()) & set(".e") else int(given)
    except ValueError:
        return given


def _parse_amount(given: Any) -> int | float | None:
    """``1`` is one sample, ``0.2`` a fifth of the samples, ``none`` all."""
    value = None if given == "none" else parse_number(given)
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    share = isinstance(value, float) and 0 < value < 1
    if value is None or whole or share:
        return value
    raise PydanticCustomError("amount", "write a count from 1, a share between 0 and 1 (0.2), or none for all")


SampleLimit = Annotated[int | float | None, BeforeValidator(_parse_amount), "≥ 1, or a share < 1, or none (all)"]
"""The type of an option for a number of samples: a count from 1, a share in (0, 1), or None for all.

Example:
    ``samples: SampleLimit = 128`` accepts ``samples=64``, ``samples=0.2`` and ``samples=none``.
"""
