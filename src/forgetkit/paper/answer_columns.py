"""Which number of which stored answer a column of a figure shows.

Rows may show different numbers of one answer: one row is the whole network and another its pruned part, or each part
is a corruption. A table then maps the names of arms or parts to numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from forgetkit.analysis.answers import StoredAnswer
from forgetkit.contracts import Answer, Chart, Measure
from forgetkit.results.outcome import Outcome, Outcomes


@dataclass(frozen=True)
class Query:
    """An analysis, as a SPEC, and the models it looks at: the last ones if ``mega_batch`` is None.

    ``about``: ``run`` analyses each run alone, ``pair`` each run with the baseline of its seed, ``grid`` all together.
    """

    analysis: str
    mega_batch: int | None = None
    about: Literal["run", "pair", "grid"] = "run"


Named = str | Mapping[str, str]
"""A name for all rows, or one by arm or part."""


@dataclass(frozen=True)
class AnswerColumn:
    """A number of the answer that is stored under the label ``of``.

    ``number`` is its key, ``over`` the key of the number it is divided by. Without ``number``, the column shows the
    point of a chart's only series at ``at``, or at the name of the part.
    """

    of: str
    number: Named = ""
    over: Named = ""
    chart: str = ""
    at: Named = ""

    def value(self, answer: Answer, part: str, arm: str) -> float | None:
        """The number of a row; None if the answer has none."""

        def named(given: Named) -> str:
            return given if isinstance(given, str) else given.get(arm, given.get(part, ""))

        key, over = named(self.number), named(self.over)
        if not key and self.chart:
            return _point(answer.charts, self.chart, named(self.at) or part)
        value, divisor = _number(answer, key), _number(answer, over)
        if not over or value is None:
            return value
        return value / divisor if divisor else None


def add_answer_columns(outcomes: Outcomes, columns: Mapping[str, AnswerColumn], part: str) -> Outcomes:
    """Add the numbers of answers to the results of the runs, under the keys of ``columns``.

    ``part`` is the part of the runs if the table has only one.
    """

    def enriched(cell: Outcome) -> Outcome:
        if cell.result is None:
            return cell
        row = [part, *(cell.arm[axis] for axis in outcomes.axes)][-2:]
        return replace(cell, result={**cell.result, **{key: _of(cell.answers, c, *row) for key, c in columns.items()}})

    return replace(outcomes, cells=tuple(map(enriched, outcomes.cells))) if columns else outcomes


def _of(answers: Sequence[StoredAnswer], column: AnswerColumn, part: str, arm: str) -> float | None:
    return next((column.value(stored.answer, part, arm) for stored in answers if stored.label == column.of), None)


def _number(answer: Answer, key: str) -> float | None:
    value = answer.numbers.get(key)
    return value.value if isinstance(value, Measure) else value


def _point(charts: Sequence[Chart], name: str, at: str) -> float | None:
    lines = [line for chart in charts if chart.name == name for line in chart.series]
    if len(lines) != 1:
        return None
    return next((y for x, y in zip(lines[0].x, lines[0].y, strict=True) if _same(x, at)), None)


def _same(x: object, at: str) -> bool:
    return math.isclose(x, float(at), abs_tol=1e-12) if isinstance(x, int | float) else x == at
