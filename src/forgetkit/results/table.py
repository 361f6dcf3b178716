"""The table of an ablation: a row per arm, a column per number, and their comparisons.

A mean is taken over the completed seeds that have the number, so it flatters an arm whose other seeds diverged; the
note of the row names such seeds, and an arm without any number shows their statuses instead. Two arms that are the
same runs count once in every correction of p values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from forgetkit.contracts import Bounds, Unit
from forgetkit.errors import ConfigError, OptionError, suggest
from forgetkit.results.outcome import Outcome, Outcomes, Status
from forgetkit.results.statistics import Judgement, Summary, compare_arms, summarize, verdicts

Result = Mapping[str, Any]

LARGEST = 1e150
"""The largest number that counts: deviations and intervals of such numbers are still floats."""


@dataclass(frozen=True)
class Column:
    """A number of a finished run; ``of`` gets :attr:`Outcome.numbers`.

    ``higher_is_better`` is None for a cost, which is shown and not compared. ``meaning`` is a line below the table,
    and ``bounds`` maps a result to the range of values that the number can have.
    """

    key: str
    title: str
    of: Callable[[Result], float | None]
    higher_is_better: bool | None = None
    unit: Unit = "number"
    meaning: str = ""
    bounds: Callable[[Result], Bounds] = lambda result: (None, None)


def _column(
    key: str,
    title: str,
    higher_is_better: bool | None,
    unit: Unit,
    bounds: Callable[[Result], Bounds] = lambda result: (0, None),
) -> Column:
    return Column(key, title, lambda result: number(result, key), higher_is_better, unit, bounds=bounds)


def fixed_bounds(low: float | None, high: float | None) -> Callable[[Result], Bounds]:
    """The same bounds for all results."""
    return lambda result: (low, high)


def _possible_errors(result: Result) -> Bounds:
    """At most one error per test sample and mega-batch."""
    counts = [number(row, "test_samples") for row in result.get("mega_batches", ())]
    known = [count for count in counts if count is not None]
    return 0, sum(known) if known and len(known) == len(counts) else None


def number(result: Result, key: str) -> float | None:
    """The number under a key of a result; None if there is none."""
    return as_number(result.get(key))


def as_number(value: Any) -> float | None:
    """``value`` if it is a number of at most ``LARGEST``; else None, as for infinity and NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= LARGEST else None


STANDARD = (
    _column("test_accuracy", "test accuracy", True, "fraction", fixed_bounds(0, 1)),
    _column("cer", "CER", False, "count", _possible_errors),
    _column("generalization_gap", "generalisation gap", False, "fraction", fixed_bounds(-1, 1)),
    _column("mean_anytime_error", "mean anytime error", False, "fraction", fixed_bounds(0, 1)),
    _column("samples_seen", "samples seen", None, "count"),
    _column("forward_passes", "forward passes", None, "count"),
    _column("backward_passes", "backward passes", None, "count"),
    _column("seconds", "time", None, "seconds"),
    _column("peak_memory_bytes", "peak memory", None, "bytes"),
)
DEFAULT = tuple(
    column for column in STANDARD if column.key in ("test_accuracy", "cer", "generalization_gap", "samples_seen")
)
"""One cost, no measured times or memory, so that repeated runs give the same bytes; and no mean anytime error, which
repeats CER and would correct every p value for it twice."""


@dataclass(frozen=True)
class TableCell:
    """A run or its failure; ``values`` has a number or None per column."""

    seed: int
    status: Status
    reason: str
    digest: str
    values: tuple[float | None, ...]
    run: str = ""
    """Equal for cells that are the same run, whatever their arms are called."""


@dataclass(frozen=True)
class TableEntry:
    """A column's number of an arm.

    ``to_baseline`` and ``to_best`` compare it with the baseline and with the best mean of its column; None for that
    arm itself, and if there is none or the column is not compared. ``bounds`` is the range of possible values.
    """

    summary: Summary
    to_baseline: Judgement | None
    to_best: Judgement | None
    best: bool
    bounds: Bounds = (None, None)


@dataclass(frozen=True)
class TableRow:
    """An arm. Of its ``labels``, a value per axis, the first ``repeats`` are those of the row above."""

    labels: tuple[str, ...]
    repeats: int
    baseline: bool
    cells: tuple[TableCell, ...]
    entries: tuple[TableEntry, ...]

    @property
    def runs(self) -> tuple[tuple[int, str], ...]:
        """Equal for arms that are the same runs."""
        return _runs(self.cells)

    @property
    def unfinished(self) -> dict[Status, list[int]]:
        """The seeds without a result, by status."""
        statuses: tuple[Status, ...] = ("diverged", "failed", "missing")
        seeds = {status: [cell.seed for cell in self.cells if cell.status == status] for status in statuses}
        return {status: found for status, found in seeds.items() if found}

    @property
    def note(self) -> str:
        """``2 of 5 seeds: seed 1 diverged, seeds 3, 4 missing``; empty if all are completed."""
        lost = self.unfinished
        if not lost:
            return ""
        completed = len(self.cells) - sum(map(len, lost.values()))
        parts = [f"{_seeds(len(seeds))} {', '.join(map(str, seeds))} {status}" for status, seeds in lost.items()]
        return f"{completed} of {len(self.cells)} {_seeds(len(self.cells))}: {', '.join(parts)}"


def _runs(cells: Iterable[TableCell]) -> tuple[tuple[int, str], ...]:
    return tuple((cell.seed, cell.run or cell.digest) for cell in cells)


def _seeds(count: int) -> str:
    return "seed" if count == 1 else "seeds"


@dataclass(frozen=True)
class Table:
    """Rows and columns with their comparisons, ready for any output format."""

    title: str
    axes: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]

    @property
    def baseline(self) -> TableRow | None:
        """The row that others are compared with, if any."""
        return next((row for row in self.rows if row.baseline), None)

    def duplicate_of(self, row: TableRow) -> TableRow | None:
        """The first row that has the same runs under another name, if any."""
        first = next(other for other in self.rows if other.runs == row.runs)
        return None if first is row or not all(run for _, run in row.runs) else first

    def arm_label(self, row: TableRow) -> str:
        """``importance=snip, replay=full``."""
        return _arm_label(self.axes, row.labels)

    def render(self, form: str = "markdown") -> str:
        """Return the table as ``markdown``, ``latex``, ``csv``, ``json`` or ``html``, with a newline at the end.

        Raises ``OptionError`` if there is no such format.
        """
        from forgetkit.results.render import render

        return render(self, form)

    def __str__(self) -> str:
        return self.render()

    def _repr_html_(self) -> str:
        return self.render("html")


def make_table(
    outcomes: Outcomes,
    columns: Sequence[Column] = DEFAULT,
    baseline: Mapping[str, str] | None = None,
    order: str | None = None,
) -> Table:
    """Return a table with a row per arm of ``outcomes``.

    ``baseline`` replaces that of the grid. ``order`` is the key of the column that rows are sorted by, best first (for
    a cost the smallest first, arms without a number last); None keeps the grid's order, with arms of equal leading
    values side by side. Raises ``OptionError`` if a column is given twice, or ``order`` or ``baseline`` does not exist.
    """
    _check(columns, order)
    arms = _group([_Arm.of(outcomes, arm, columns) for arm in outcomes.arms()])
    chosen = outcomes.baseline if baseline is None else baseline
    reference = None if chosen is None else _baseline_position(outcomes.axes, arms, chosen)
    leaders = [_leader([arm.summaries[place].mean for arm in arms], column) for place, column in enumerate(columns)]
    to_baseline = _judge(arms, columns, [reference] * len(columns))
    to_best = _judge(arms, columns, leaders)
    rows = []
    for row, arm in enumerate(arms):
        entries = []
        for place, (own, leader) in enumerate(zip(arm.summaries, leaders, strict=True)):
            judged = to_best.get((row, place))
            best = leader is not None and _ties_with_leader(own, arms[leader].summaries[place], judged)
            entries.append(TableEntry(own, to_baseline.get((row, place)), judged, best, arm.bounds[place]))
        repeats = _common(arms[row - 1].labels, arm.labels) if row and order is None else 0
        rows.append(TableRow(arm.labels, repeats, row == reference, arm.cells, tuple(entries)))
    rows = rows if order is None else _rank(rows, columns, order)
    return Table(outcomes.title, outcomes.axes, tuple(columns), tuple(rows))


@dataclass(frozen=True)
class _Arm:
    """An arm before comparisons; values, summaries and bounds by the position of their column."""

    labels: tuple[str, ...]
    cells: tuple[TableCell, ...]
    values: tuple[Mapping[int, float], ...]
    summaries: tuple[Summary, ...]
    bounds: tuple[Bounds, ...]

    @classmethod
    def of(cls, outcomes: Outcomes, arm: Mapping[str, str], columns: Sequence[Column]) -> _Arm:
        labels = tuple(arm[axis] for axis in outcomes.axes)
        cells = tuple(_cell(cell, columns) for cell in outcomes.of(arm))
        if len({cell.seed for cell in cells}) < len(cells):
            raise ConfigError(f"{_arm_label(outcomes.axes, labels)} has two cells of one seed; a grid has one of each")
        values = tuple(
            {cell.seed: value for cell in cells if (value := cell.values[place]) is not None}
            for place in range(len(columns))
        )
        numbers = [cell.numbers for cell in outcomes.of(arm) if cell.status == "completed"]
        bounds = tuple(_widest([column.bounds(one) for one in numbers]) for column in columns)
        return cls(labels, cells, values, tuple(summarize(by_seed.values()) for by_seed in values), bounds)


def _widest(bounds: Sequence[Bounds]) -> Bounds:
    """The bounds that hold for all results."""
    lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
    return (
        None if not lows or None in lows else min(low for low in lows if low is not None),
        None if not highs or None in highs else max(high for high in highs if high is not None),
    )


def difference_bounds(ours: Bounds, other: Bounds) -> Bounds:
    """The bounds of the difference between two numbers."""
    return (
        None if ours[0] is None or other[1] is None else ours[0] - other[1],
        None if ours[1] is None or other[0] is None else ours[1] - other[0],
    )


def _check(columns: Sequence[Column], order: str | None) -> None:
    keys = [column.key for column in columns]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise OptionError(f"the column '{twice}' is asked for twice")
    if order is not None and order not in keys:
        raise OptionError(f"the table has no column '{order}' to be ordered by; {suggest(order, keys)}")


def _cell(outcome: Outcome, columns: Sequence[Column]) -> TableCell:
    result = outcome.result if outcome.status == "completed" else None
    found = [None if result is None else column.of(outcome.numbers) for column in columns]
    values = tuple(value if value is not None and math.isfinite(value) else None for value in found)
    return TableCell(outcome.seed, outcome.status, outcome.reason, outcome.digest, values, outcome.run)


def _group(arms: Sequence[_Arm]) -> list[_Arm]:
    """Put arms that share leading values side by side, at the position of the first."""
    first: dict[tuple[str, ...], int] = {}
    for place, arm in enumerate(arms):
        for depth in range(len(arm.labels)):
            first.setdefault(arm.labels[: depth + 1], place)
    return sorted(arms, key=lambda arm: [first[arm.labels[: depth + 1]] for depth in range(len(arm.labels))])


def _rank(rows: Sequence[TableRow], columns: Sequence[Column], order: str) -> list[TableRow]:
    """Sort best first, costs smallest first, rows without a number last."""
    place, column = next((place, column) for place, column in enumerate(columns) if column.key == order)

    def rank(row: TableRow) -> tuple[bool, float]:
        mean = row.entries[place].summary.mean
        return (mean is None, 0.0 if mean is None else -mean if column.higher_is_better else mean)

    return sorted(rows, key=rank)


def _baseline_position(axes: Sequence[str], arms: Sequence[_Arm], baseline: Mapping[str, str]) -> int:
    for place, arm in enumerate(arms):
        if dict(zip(axes, arm.labels, strict=True)) == dict(baseline):
            return place
    name = _arm_label(tuple(baseline), tuple(baseline.values()))
    raise OptionError(f"the baseline {name} is no arm; {suggest(name, [_arm_label(axes, arm.labels) for arm in arms])}")


def _leader(means: Sequence[float | None], column: Column) -> int | None:
    """The position of the best mean, the first of equals; None if nothing is compared."""
    known = {place: mean for place, mean in enumerate(means) if mean is not None}
    if column.higher_is_better is None or len(known) < 2:
        return None
    return (max if column.higher_is_better else min)(known, key=known.__getitem__)


def _ties_with_leader(own: Summary, leader: Summary, judged: Judgement | None) -> bool:
    """Whether a mean is the best of its column, or enough seeds do not show that it is worse."""
    if own.mean is None or leader.mean is None:
        return False
    if math.isclose(own.mean, leader.mean):
        return True
    return judged is not None and judged.verdict in ("not distinguishable", "better")


def _judge(
    arms: Sequence[_Arm], columns: Sequence[Column], references: Sequence[int | None]
) -> dict[tuple[int, int], Judgement]:
    """Compare each arm with the reference of each column; p values are corrected over the whole table.

    Arms that are the same runs are compared once and share the judgement. Keys are positions of row and column.
    """
    runs = [_runs(arm.cells) for arm in arms]
    comparisons, directions, first_equal = {}, [], {}
    for place, (column, reference) in enumerate(zip(columns, references, strict=True)):
        if reference is None or column.higher_is_better is None:
            continue
        for row, arm in enumerate(arms):
            if runs[row] != runs[reference]:
                first = first_equal[row, place] = runs.index(runs[row]), place
                if first not in comparisons:
                    other = arms[reference]
                    possible = difference_bounds(arm.bounds[place], other.bounds[place])
                    comparisons[first] = compare_arms(arm.values[place], other.values[place], possible)
                    directions.append(column.higher_is_better)
    judged = dict(zip(comparisons, verdicts(list(comparisons.values()), directions), strict=True))
    return {at: judged[first] for at, first in first_equal.items()}


def _common(above: Sequence[str], labels: Sequence[str]) -> int:
    """The number of leading labels that two rows share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(above, labels, strict=True)))


def _arm_label(axes: Sequence[str], labels: Sequence[str]) -> str:
    return ", ".join(f"{axis}={label}" for axis, label in zip(axes, labels, strict=True))
