"""Which number of which answer stands in a column of a figure.

Rows may take different numbers of one answer: one row is the whole network and another what is left of it, or each part
is a corruption. Then a table says by the name of the arm or the part which number it is.
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
    """An analysis, as a SPEC, and what it is asked about: of the last models where no mega-batch is named.

    ``run``: each by itself; ``pair``: each together with that of the baseline at the same seed; ``grid``: all together,
    as methods at settings.
    """

    analysis: str
    mega_batch: int | None = None
    about: Literal["run", "pair", "grid"] = "run"


Named = str | Mapping[str, str]
"""A name for all rows, or one for each arm or part."""


@dataclass(frozen=True)
class AnswerColumn:
    """A number of the answer that is kept under the label ``of``.

    ``number`` is its key, ``over`` that of one it is divided by. Where there is none for a row, it is the point of a
    chart's only series at ``at``, or at the name of the part.
    """

    of: str
    number: Named = ""
    over: Named = ""
    chart: str = ""
    at: Named = ""

    def value(self, answer: Answer, part: str, arm: str) -> float | None:
        """For a row; None where the answer has no such number."""

        def named(given: Named) -> str:
            return given if isinstance(given, str) else given.get(arm, given.get(part, ""))

        key, over = named(self.number), named(self.over)
        if not key and self.chart:
            return _point(answer.charts, self.chart, named(self.at) or part)
        value, under = _number(answer, key), _number(answer, over)
        if not over or value is None:
            return value
        return value / under if under else None


def add_answer_columns(outcomes: Outcomes, answer_columns: Mapping[str, AnswerColumn], part: str) -> Outcomes:
    """The same runs, with the numbers taken among those of their results, by the keys of ``taken``.

    ``part`` is that of the runs of a table that has one part alone.
    """

    def enriched(cell: Outcome) -> Outcome:
        if cell.result is None:
            return cell
        row = [part, *(cell.arm[axis] for axis in outcomes.axes)][-2:]
        return replace(
            cell, result={**cell.result, **{key: _of(cell.answers, one, *row) for key, one in answer_columns.items()}}
        )

    return replace(outcomes, cells=tuple(map(enriched, outcomes.cells))) if answer_columns else outcomes


def _of(answers: Sequence[StoredAnswer], answer_columns: AnswerColumn, part: str, arm: str) -> float | None:
    return next(
        (answer_columns.value(one.answer, part, arm) for one in answers if one.label == answer_columns.of), None
    )


def _number(answer: Answer, key: str) -> float | None:
    value = answer.numbers.get(key)
    return value.value if isinstance(value, Measure) else value


def _point(charts: Sequence[Chart], name: str, at: str) -> float | None:
    lines = [line for one in charts if one.name == name for line in one.series]
    if len(lines) != 1:
        return None
    return next((y for x, y in zip(lines[0].x, lines[0].y, strict=True) if _same(x, at)), None)


def _same(x: object, at: str) -> bool:
    return math.isclose(x, float(at), abs_tol=1e-12) if isinstance(x, int | float) else x == at
