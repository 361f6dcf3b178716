"""The words and figures of a table, before an output format escapes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from forgetkit.contracts import Unit
from forgetkit.results.statistics import ALPHA, DRAWS, EXACT_UP_TO, Judgement, seeds_needed
from forgetkit.results.table import Column, Table, TableEntry, TableRow

STAR = "*"
EACH_SEED = "each seed"
_FEW, _MANY = 1e-4, 1e15
_SHOWN_IN = {"fraction": 100, "bytes": 2**-20}


@dataclass(frozen=True)
class FormattedEntry:
    """An entry as text."""

    text: str
    bold: bool
    star: bool


@dataclass(frozen=True)
class FormattedDifference:
    """The difference of a number to the baseline as text; ``texts`` has a text per :func:`difference_heads`."""

    number: str
    texts: tuple[str, str, str]


def one_line(text: str) -> str:
    """Return a text as one line without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def heading(column: Column) -> str:
    """``test accuracy (%) ↑``: title, unit, the direction that is better."""
    unit = {"fraction": " (%)", "seconds": " (s)", "bytes": " (MiB)"}.get(column.unit, "")
    better = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
    return f"{one_line(column.title)}{unit}{better}"


def labels(row: TableRow) -> list[str]:
    """The values of an arm; empty if the row above has the same."""
    return ["" if place < row.repeats else one_line(label) for place, label in enumerate(row.labels)]


def arm_label(table: Table, row: TableRow) -> str:
    """``importance=snip, replay=full``."""
    return one_line(table.arm_label(row))


def format_figure(value: float, unit: Unit) -> str:
    """Percent with two decimals, whole counts, tenths of seconds and MiB; other numbers with four digits."""
    number = "z,.0f" if 1000 <= abs(value) < _MANY else "z.4g"
    digits = {"fraction": "z.2f", "count": "z,.0f", "seconds": "z,.1f", "bytes": "z,.1f", "number": number}[unit]
    return format(value * _SHOWN_IN.get(unit, 1), digits)


def format_figures(values: Sequence[float], unit: Unit) -> list[str]:
    """Format figures with the same decimals, so that the largest has four digits."""
    largest = max(map(abs, values))
    whole = all(float(value).is_integer() for value in values)
    if unit != "number" or whole or not _FEW <= largest < _MANY:
        return [format_figure(value, unit) for value in values]
    decimals = max(0, 3 - math.floor(math.log10(largest)))
    return [format(value, f"z,.{decimals}f") for value in values]


def format_entries(table: Table) -> list[list[FormattedEntry]]:
    """The entries of each row: ``93.32 ± 0.21 (n=3)``, with n if others have more seeds.

    A cost that is the same for every seed has no deviation. An arm without a number shows the statuses of its seeds, or
    a dash if they are completed.
    """
    most = _most_seeds(table)

    def one(row: TableRow, entry: TableEntry, column: Column) -> FormattedEntry:
        unit, cost = column.unit, column.higher_is_better is None
        mean, std, n = entry.summary.mean, entry.summary.std, entry.summary.n
        if mean is None:
            return FormattedEntry(", ".join(row.unfinished) or "–", bold=False, star=False)
        spread = [] if std is None or (cost and std == 0) else [std]
        seeds = f" (n={n})" if n < most else ""
        star = entry.to_baseline is not None and entry.to_baseline.verdict in ("better", "worse")
        return FormattedEntry(f"{' ± '.join(format_figures([mean, *spread], unit))}{seeds}", entry.best, star)

    return [[one(row, *pair) for pair in zip(row.entries, table.columns, strict=True)] for row in table.rows]


def format_comparison(judgement: Judgement, unit: Unit) -> str:
    """``+1.25 [0.50, 2.00], p = 0.016, corrected 0.031: better``."""
    compared = judgement.comparison
    if compared.difference is None or compared.p is None or judgement.adjusted is None:
        return f"no common seed: {judgement.verdict}"
    p = f"p = {compared.p:.2g}, corrected {judgement.adjusted:.2g}"
    return f"{format_difference(judgement, unit)}, {p}: {judgement.verdict}"


def format_differences(table: Table) -> list[tuple[TableRow, list[FormattedDifference]]]:
    """Each arm that is compared with the baseline, and its differences; empty if nothing is compared."""
    found = []
    for row in table.rows:
        pairs = zip(row.entries, table.columns, strict=True)
        differences = [_format_verdict(entry.to_baseline, column) for entry, column in pairs if entry.to_baseline]
        found += [(row, differences)] if differences else []
    judged = [entry.to_baseline for row in table.rows for entry in row.entries if entry.to_baseline]
    return found if any(one.comparison.n for one in judged) else []


def difference_heads(table: Table) -> tuple[str, str, str]:
    """The headings of a difference; without the interval if none is shown."""
    judged = distinct(entry.to_baseline for row in table.rows for entry in row.entries)
    interval = " [95 % interval]" if any(one.comparison.low is not None for one in judged) else ""
    return f"difference{interval}", "corrected p", "verdict"


def differences_title(table: Table) -> str:
    """``Difference to importance=random``."""
    return f"Difference to {arm_label(table, table.baseline)}" if table.baseline else ""


def _format_verdict(judgement: Judgement, column: Column) -> FormattedDifference:
    """The difference, p and verdict; p is left out if seeds are too few for a verdict."""
    few = judgement.verdict == "too few seeds" or judgement.adjusted is None
    p = "–" if few else f"{judgement.adjusted:.2g}"
    return FormattedDifference(heading(column), (format_difference(judgement, column.unit), p, judgement.verdict))


def format_difference(judgement: Judgement, unit: Unit) -> str:
    """``+1.25 [0.50, 2.00]``; ``+1.25 (each seed)`` if the difference is the same at every seed.

    There is no interval if seeds are too few for a verdict.
    """
    compared = judgement.comparison
    if compared.difference is None:
        return "no common seed"
    bounds = [] if compared.low is None or compared.high is None else [compared.low, compared.high]
    shown, *interval = format_figures([compared.difference, *bounds], unit)
    if interval and interval[0] == interval[1]:
        shown, *interval = _finer([compared.difference, *bounds], unit)
    sign = "" if shown.startswith("-") else "+"
    constant = judgement.comparison.constant and judgement.verdict != "too few seeds"
    return f"{sign}{shown}" + (f" [{', '.join(interval)}]" if interval else f" ({EACH_SEED})" if constant else "")


def _finer(values: Sequence[float], unit: Unit) -> list[str]:
    """Format a mean and the ends of an interval with two digits of its width."""
    scaled = [value * _SHOWN_IN.get(unit, 1) for value in values]
    width = scaled[2] - scaled[1]
    decimals = min(15, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 15
    return [format(value, f"z,.{decimals}f") for value in scaled]


def notes(table: Table) -> list[str]:
    """Each arm that lost seeds, and each that is the same runs as another."""
    lost = [f"{arm_label(table, row)}: {row.note}" for row in table.rows if row.note]
    duplicates = [(row, first) for row in table.rows if (first := table.duplicate_of(row)) is not None]
    return [
        *lost,
        *(
            f"{arm_label(table, row)} is the same runs as {arm_label(table, first)}: compared once"
            for row, first in duplicates
        ),
    ]


def legend(table: Table, bold: str = "Bold:") -> list[str]:
    """What ±, bold (or its replacement) and star mean in this table, and what its seeds cannot show."""
    return [*meanings(table), *_spread(table), *_bold(table, bold), *_stars(table)]


def meanings(table: Table) -> Iterator[str]:
    """Each column with a meaning: ``nll: mean cross entropy``."""
    for column in table.columns:
        if column.meaning:
            yield f"{one_line(column.title)}: {one_line(column.meaning)}."


def _most_seeds(table: Table) -> int:
    return max((entry.summary.n for row in table.rows for entry in row.entries), default=0)


def _spread(table: Table) -> Iterator[str]:
    most = _most_seeds(table)
    fewer = any(0 < entry.summary.n < most for row in table.rows for entry in row.entries)
    if most == 0:
        yield "There are no numbers yet."
    elif most == 1:
        yield "One seed each."
    else:
        yield f"Mean ± standard deviation over {most} seeds{', or as many as n says' if fewer else ''}."


def _bold(table: Table, bold: str) -> Iterator[str]:
    entries = [entry for row in table.rows for entry in row.entries]
    judged = distinct(entry.to_best for entry in entries)
    if not any(entry.best for entry in entries):
        return
    if all(one.verdict == "too few seeds" for one in judged):
        yield f"{bold} the best mean of its column; too few seeds to say which others may be as good."
    else:
        yield f"{bold} the best mean of its column, and what {_test(judged)} does not find worse at p < {ALPHA}."


def _stars(table: Table) -> Iterator[str]:
    if table.baseline is None:
        return
    name = arm_label(table, table.baseline)
    judged = distinct(entry.to_baseline for row in table.rows for entry in row.entries)
    if not judged:
        yield f"Nothing can be compared with the baseline {name}."
        return
    yield f"{STAR} better or worse than the baseline {name} by {_test(judged)} at p < {ALPHA}."
    few = sum(one.verdict == "too few seeds" for one in judged)
    if few:
        needed = seeds_needed(len(judged))
        yield f"Too few seeds for a star in {few} of {comparisons(len(judged))}: {needed} each are enough."
    if any(one.comparison.constant and one.verdict != "too few seeds" for one in judged):
        yield f"{EACH_SEED.capitalize()}: the same difference at every seed, so there is no spread for an interval."


def distinct(judged: Iterable[Judgement | None]) -> list[Judgement]:
    """Each comparison once; arms that are the same runs share one."""
    return list({id(one): one for one in judged if one is not None and one.comparison.n}.values())


def _test(judged: list[Judgement]) -> str:
    kind = "an exact paired sign-flip test"
    if not all(one.comparison.exact for one in judged):
        kind = f"a paired sign-flip test ({DRAWS:,} draws where there are more than {EXACT_UP_TO} seeds)"
    return f"{kind}, Holm-corrected over {comparisons(len(judged))},"


def comparisons(count: int) -> str:
    """``1 comparison``, ``2 comparisons``."""
    return f"{count} comparison{'s' if count > 1 else ''}"
