"""The columns that a command line can name: any number of a result or an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from forgetkit.analysis import answers
from forgetkit.contracts import Measure
from forgetkit.errors import OptionError, suggest
from forgetkit.results.outcome import Outcomes
from forgetkit.results.table import STANDARD, Column, fixed_bounds, number

_BETTER = {"higher": True, "lower": False}
_NO_NUMBER = ("schema",)


def parse_columns(text: str, outcomes: Outcomes) -> tuple[Column, ...]:
    """Parse ``test_accuracy,calibration_ece,my_metric:higher``: standard columns, and numbers of answers and results.

    ``:higher`` or ``:lower`` says which is better; standard columns and answers have a direction of their own. A number
    without direction is shown and not compared. A hyphen stands for an underscore. Raises ``OptionError`` if a column
    does not exist.
    """
    known = {column.key: column for column in (*STANDARD, *other_columns(outcomes), *answer_columns(outcomes))}
    return tuple(_column(piece.strip(), known) for piece in text.split(","))


def other_columns(outcomes: Outcomes) -> tuple[Column, ...]:
    """A column for each number that results have beside the standard ones, as those of plugins' metrics."""
    standard = {column.key for column in STANDARD}
    keys = {
        key: None for cell in outcomes.cells for key in cell.result or {} if number(cell.result or {}, key) is not None
    }
    return tuple(_other(key) for key in keys if key not in standard and key not in _NO_NUMBER)


def answer_columns(outcomes: Outcomes, label: str | None = None) -> tuple[Column, ...]:
    """A column for each number of an answer; with ``label``, of answers under it, without the label in their titles.

    Direction and unit are those of the first cell's answer. A number of a result hides one of an answer with its name.
    """
    standard = {column.key for column in STANDARD}
    found: dict[str, Measure] = {}
    for cell in outcomes.cells:
        own = [one for one in cell.answers if label in (None, one.label)]
        for key, measure in answers.answer_columns(own).items():
            if key not in standard and key not in (cell.result or {}):
                found.setdefault(key, measure)
    return tuple(_answer_column(key, measure, label) for key, measure in found.items())


def _answer_column(key: str, measure: Measure, label: str | None) -> Column:
    better = None if measure.better is None else _BETTER[measure.better]
    title = measure.title if label is None else answers.column_title(label, key, measure)
    column = _other(key)
    return dataclasses.replace(
        column,
        title=title or column.title,
        higher_is_better=better,
        unit=measure.unit,
        meaning=measure.meaning,
        bounds=fixed_bounds(*measure.bounds),
    )


def _column(piece: str, known: dict[str, Column]) -> Column:
    name, colon, direction = piece.partition(":")
    key = key_of(name)
    if key not in known:
        raise OptionError(f"there is no column '{name}'; {_suggestions(key, known)}")
    if colon and direction not in _BETTER:
        raise OptionError(f"--columns {piece}: write {name}:higher or {name}:lower, whichever is better")
    return dataclasses.replace(known[key], higher_is_better=_BETTER[direction]) if colon else known[key]


def _suggestions(key: str, known: Mapping[str, Column]) -> str:
    """Columns whose name ends with the key, as ``ece``, or whose title it is; else similar names."""
    wanted = key.casefold()
    of_an_analysis = [other for other in known if wanted and other.endswith(f"_{wanted}")]
    titled = [other for other, column in known.items() if column.title.casefold() == wanted.replace("_", " ")]
    found = list(dict.fromkeys((*titled, *sorted(of_an_analysis, key=len))))
    return f"did you mean {' or '.join(found[:5])}?" if found else suggest(key, known)


def key_of(name: str) -> str:
    """The key of a column: ``test-accuracy`` is ``test_accuracy``."""
    return name.replace("-", "_")


def _other(key: str) -> Column:
    return Column(key, key.replace("_", " "), lambda result: number(result, key))
