"""How many samples, as a count or as a share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from forgetkit.contracts.numeric import as_number


def parse_number(given: Any) -> Any:
    """The number that a text spells: whole where it is written whole (``1``), else a float (``0.2``, ``1.0``)."""
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
    """A count where a whole number is written, a share where a decimal one is: ``1`` is one sample, ``0.2`` a fifth."""
    value = None if given == "none" else parse_number(given)
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    share = isinstance(value, float) and 0 < value < 1
    if value is None or whole or share:
        return value
    raise PydanticCustomError("amount", "write a count from 1, a share between 0 and 1 (0.2), or none for all")


SampleLimit = Annotated[int | float | None, BeforeValidator(_parse_amount), "≥ 1, or a share < 1, or none (all)"]
"""An option that says how many samples: a count from 1, a share strictly between 0 and 1, or None for all of them."""
