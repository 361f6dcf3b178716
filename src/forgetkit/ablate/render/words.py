"""What a table says in words and figures, before a format escapes and sets it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from forgetkit.ablate.statistics import ALPHA, DRAWS, EXACT_UP_TO, Judgement, enough
from forgetkit.ablate.table import Column, Entry, Row, Table, Unit

STAR = "*"
_MANY = 1e15


@dataclass(frozen=True)
class Shown:
    """An entry as it is read."""

    text: str
    bold: bool
    star: bool


def plain(text: str) -> str:
    """One line without control characters, whatever a user has typed."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def broken(text: str, width: int) -> list[str]:
    """Lines of ``width`` letters where spaces, commas and colons allow it; joined again they are the text."""
    lines = [""]
    for piece in re.split(r"(?<=[ ,:])", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def heading(column: Column) -> str:
    """``test accuracy (%) ↑``: title, unit, the direction that is better."""
    unit = {"fraction": " (%)", "seconds": " (s)", "bytes": " (MiB)"}.get(column.unit, "")
    better = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
    return f"{plain(column.title)}{unit}{better}"


def labels(row: Row) -> list[str]:
    """An arm's values; those that the row above has too are left out."""
    return ["" if place < row.repeats else plain(label) for place, label in enumerate(row.labels)]


def named(table: Table, row: Row) -> str:
    """``importance=snip, replay=full``."""
    return plain(table.named(row))


def figure(value: float, unit: Unit) -> str:
    """Percent with two digits, whole counts, tenths of seconds and MiB, of all else four digits or what is whole."""
    number = "z,.0f" if 1000 <= abs(value) < _MANY else "z.4g"
    digits = {"fraction": "z.2f", "count": "z,.0f", "seconds": "z,.1f", "bytes": "z,.1f", "number": number}[unit]
    return format(value * {"fraction": 100, "bytes": 2**-20}.get(unit, 1), digits)


def shown(table: Table) -> list[list[Shown]]:
    """The entries of each row: ``93.32 ± 0.21 (n=3)``, with n where others have more.

    A cost that is the same for every seed stands without its deviation of zero.
    An arm without a number shows what became of its seeds, and a dash where they are completed.
    """
    most = _most_seeds(table)

    def one(row: Row, entry: Entry, column: Column) -> Shown:
        unit, cost = column.unit, column.higher_is_better is None
        mean, std, n = entry.summary.mean, entry.summary.std, entry.summary.n
        if mean is None:
            return Shown(", ".join(row.unfinished) or "–", bold=False, star=False)
        spread = "" if std is None or (cost and std == 0) else f" ± {figure(std, unit)}"
        seeds = f" (n={n})" if n < most else ""
        star = entry.to_baseline is not None and entry.to_baseline.verdict in ("better", "worse")
        return Shown(f"{figure(mean, unit)}{spread}{seeds}", entry.best, star)

    return [[one(row, *pair) for pair in zip(row.entries, table.columns, strict=True)] for row in table.rows]


def against(judgement: Judgement, unit: Unit) -> str:
    """``+1.25 [0.50, 2.00], p = 0.016, corrected 0.031: better``."""
    compared = judgement.comparison
    if compared.difference is None or compared.p is None or judgement.adjusted is None:
        return f"no common seed: {judgement.verdict}"
    sign = "" if compared.difference < 0 else "+"
    bounds = (
        ""
        if compared.low is None or compared.high is None
        else f" [{figure(compared.low, unit)}, {figure(compared.high, unit)}]"
    )
    return (
        f"{sign}{figure(compared.difference, unit)}{bounds}, "
        f"p = {compared.p:.2g}, corrected {judgement.adjusted:.2g}: {judgement.verdict}"
    )


def notes(table: Table) -> list[str]:
    """Each arm that lost seeds, and which."""
    return [f"{named(table, row)}: {row.note}" for row in table.rows if row.note]


def legend(table: Table, bold: str = "Bold:") -> list[str]:
    """What ±, bold (or what stands in its place) and star mean in this table, and what its seeds cannot show."""
    return [*_spread(table), *_bold(table, bold), *_stars(table)]


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
    judged = [entry.to_best for entry in entries if entry.to_best is not None and entry.to_best.comparison.n]
    if not any(entry.best for entry in entries):
        return
    if all(one.verdict == "too few seeds" for one in judged):
        yield f"{bold} the best mean of its column; too few seeds to say which others may be as good."
    else:
        yield f"{bold} the best mean of its column, and what {_test(judged)} does not find worse at p < {ALPHA}."


def _stars(table: Table) -> Iterator[str]:
    if table.baseline is None:
        return
    name = named(table, table.baseline)
    entries = [entry.to_baseline for row in table.rows for entry in row.entries]
    judged = [one for one in entries if one is not None and one.comparison.n]
    if not judged:
        yield f"Nothing can be compared with the baseline {name}."
        return
    yield f"{STAR} better or worse than the baseline {name} by {_test(judged)} at p < {ALPHA}."
    few = sum(one.verdict == "too few seeds" for one in judged)
    if few:
        yield f"Too few seeds for a star in {few} of {_comparisons(len(judged))}: {enough(len(judged))} each would do."


def _test(judged: list[Judgement]) -> str:
    kind = "an exact paired sign-flip test"
    if not all(one.comparison.exact for one in judged):
        kind = f"a paired sign-flip test ({DRAWS:,} draws where there are more than {EXACT_UP_TO} seeds)"
    return f"{kind}, Holm-corrected over {_comparisons(len(judged))},"


def _comparisons(count: int) -> str:
    return f"{count} comparison{'s' if count > 1 else ''}"
