"""The columns of a table as a command line names them: any number of a result can be one."""

from __future__ import annotations

import dataclasses

from forgetkit.ablate.outcome import Outcomes
from forgetkit.ablate.table import STANDARD, Column, number
from forgetkit.errors import OptionError, closest

_BETTER = {"higher": True, "lower": False}
_NO_NUMBER = ("schema",)


def chosen(text: str, outcomes: Outcomes) -> tuple[Column, ...]:
    """``test_accuracy,my_metric:higher``: standard columns, and whatever other numbers the results hold.

    ``:higher`` or ``:lower`` says which is better; a number that says neither, and is no measure of the protocol, is
    shown and not compared. Hyphens are taken for underscores, as in the names of metrics.
    """
    known = {column.key: column for column in (*STANDARD, *others(outcomes))}
    return tuple(_column(piece.strip(), known) for piece in text.split(","))


def others(outcomes: Outcomes) -> tuple[Column, ...]:
    """A column for each number that results have beside the standard ones: those of more metrics, of plugins too."""
    standard = {column.key for column in STANDARD}
    keys = {
        key: None for cell in outcomes.cells for key in cell.result or {} if number(cell.result or {}, key) is not None
    }
    return tuple(_other(key) for key in keys if key not in standard and key not in _NO_NUMBER)


def _column(piece: str, known: dict[str, Column]) -> Column:
    name, colon, direction = piece.partition(":")
    key = key_of(name)
    if key not in known:
        raise OptionError(f"there is no column '{name}'; {closest(key, known)}")
    if colon and direction not in _BETTER:
        raise OptionError(f"--columns {piece}: write {name}:higher or {name}:lower, whichever is better")
    return dataclasses.replace(known[key], higher_is_better=_BETTER[direction]) if colon else known[key]


def key_of(name: str) -> str:
    """A column's key as results have it: ``test-accuracy`` is ``test_accuracy``."""
    return name.replace("-", "_")


def _other(key: str) -> Column:
    return Column(key, key.replace("_", " "), lambda result: number(result, key))
