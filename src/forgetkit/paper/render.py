"""A comparison with the paper as text: the same comparison always the same bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from forgetkit.contracts import Unit
from forgetkit.errors import OptionError, suggest
from forgetkit.paper.comparison import ComparedEntry, ComparedRow, PaperComparison
from forgetkit.paper.reference import Caveat
from forgetkit.results.render import formatting, latex, markdown
from forgetkit.results.statistics import ALPHA, CONFIDENCE, EXACT_UP_TO, seeds_needed
from forgetkit.results.table import Column

FORMATS = ("markdown", "latex", "csv", "json")
SCHEMA = 1
_NONE = "–"
_PAGE = "docs/reproducibility.md"


@dataclass(frozen=True)
class ComparisonSheet:
    """One block of a comparison: rows of text that begin with a label per axis.

    ``numbers`` are what follows: each with a heading, and the headings of its columns.
    """

    title: str
    axes: tuple[str, ...]
    numbers: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def labels(self) -> int:
        """How many columns name a row."""
        return len(self.axes)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heading of each column."""
        heads = (head for number, (first, *rest) in self.numbers for head in (f"{number}: {first}", *rest))
        return (*self.axes, *heads)

    def apart(self) -> Iterator[ComparisonSheet]:
        """A sheet for each number, narrower than all beside each other; its name is in the title."""
        start = self.labels
        for number, heads in self.numbers:
            end = start + len(heads)
            rows = tuple((*row[: self.labels], *row[start:end]) for row in self.rows)
            yield ComparisonSheet(": ".join(filter(None, (self.title, number))), (*self.axes, *heads), (), rows)
            start = end


def render_comparison(comparison: PaperComparison, form: str) -> str:
    """``comparison`` in one of ``FORMATS``, with a newline at the end."""
    renderers = {"markdown": _markdown, "latex": _latex, "csv": _csv, "json": _json}
    if form not in renderers:
        raise OptionError(f"there is no format '{form}'; {suggest(form, FORMATS)}")
    return renderers[form](comparison)


def sheets(comparison: PaperComparison) -> tuple[ComparisonSheet, ...]:
    """Paper beside measured, and both against the baseline where anything is compared with it."""
    against = _baseline_sheet(comparison)
    return (_main_sheet(comparison), against) if against.rows else (_main_sheet(comparison),)


def caption(comparison: PaperComparison) -> tuple[str, ...]:
    """At what scale, what was changed for it, what was not run, and how to read the rest."""
    return tuple(_caption(comparison))


def caveats(comparison: PaperComparison) -> tuple[str, ...]:
    """Those with a letter, those about the whole table, and rows that lost seeds."""
    lettered = (f"({letter}) {_caveat_scope(doubt)}{_citation(doubt)}" for letter, doubt in comparison.marked.items())
    lost = (f"{_row_name(comparison, row)}: {row.note}." for row in comparison.rows if row.note)
    return (*lettered, *map(_citation, comparison.doubts), *lost)


def _main_sheet(comparison: PaperComparison) -> ComparisonSheet:
    shown = [column for column in range(len(comparison.columns)) if _has_figures(comparison, column)]
    differing = ("difference",) if comparison.setting.scale.comparable else ()
    numbers = tuple(
        (
            f"{formatting.heading(column)}{_letters(comparison.column_marks[place])}",
            ("paper", "measured", *differing) if place in shown else ("measured",),
        )
        for place, column in enumerate(comparison.columns)
    )
    rows = []
    for above, row in _with_above(comparison.rows):
        cells: list[str] = []
        for place, (entry, column) in enumerate(zip(row.entries, comparison.columns, strict=True)):
            cost = column.higher_is_better is None and entry.measured.std == 0
            measured = _spread(entry.measured.mean, None if cost else entry.measured.std, column.unit)
            if place in shown:
                cells += [_paper_number(entry, column.unit), measured]
                cells += [_signed(entry.difference, column.unit) for _ in differing]
            else:
                cells.append(measured)
        rows.append((*_labels(comparison, above, row), *cells))
    return ComparisonSheet("", comparison.setting.axes, numbers, tuple(rows))


def _baseline_sheet(comparison: PaperComparison) -> ComparisonSheet:
    baseline = comparison.setting.table.baseline
    numbers = tuple(
        (
            formatting.heading(column),
            ("paper", "measured", "verdict") if _has_figures(comparison, place) else ("measured", "verdict"),
        )
        for place, column in enumerate(comparison.columns)
        if any(row.entries[place].against for row in comparison.rows)
    )
    rows = []
    for above, row in _with_above([row for row in comparison.rows if any(entry.against for entry in row.entries)]):
        cells: list[str] = []
        for place, (entry, column) in enumerate(zip(row.entries, comparison.columns, strict=True)):
            if entry.against is None:
                continue
            if _has_figures(comparison, place):
                cells.append(_signed(entry.against.printed, column.unit))
            cells += [_interval(entry, column.unit), entry.against.measured.verdict]
        rows.append((*_labels(comparison, above, row), *cells))
    return ComparisonSheet(f"Difference to {baseline}", comparison.setting.axes, numbers, tuple(rows))


def _has_figures(comparison: PaperComparison, place: int) -> bool:
    return any(row.entries[place].printed is not None for row in comparison.rows)


def _with_above(rows: Sequence[ComparedRow]) -> Iterator[tuple[ComparedRow | None, ComparedRow]]:
    return zip((None, *rows), rows, strict=False)


def _labels(comparison: PaperComparison, above: ComparedRow | None, row: ComparedRow) -> list[str]:
    """A part is named in its first row alone."""
    part = "" if above is not None and above.part == row.part else f"{row.part}{_letters(row.part_marks)}"
    arm = f"{row.arm}{_letters(row.marks)}"
    return [part, arm] if len(comparison.setting.axes) > 1 else [arm]


def _letters(marks: str) -> str:
    return f" ({', '.join(marks)})" if marks else ""


def _paper_number(entry: ComparedEntry, unit: Unit) -> str:
    figure = entry.printed
    if figure is None:
        return _NONE
    return f"{_spread(figure.value, figure.std, unit)}{_letters(entry.marks)}"


def _spread(mean: float | None, std: float | None, unit: Unit) -> str:
    if mean is None:
        return _NONE
    return formatting.format_figure(mean, unit) + ("" if std is None else f" ± {formatting.format_figure(std, unit)}")


def _signed(value: float | None, unit: Unit) -> str:
    if value is None:
        return _NONE
    text = formatting.format_figure(value, unit)
    return text if text.startswith("-") else f"+{text}"


def _interval(entry: ComparedEntry, unit: Unit) -> str:
    if entry.against is None:
        return _NONE
    judged = entry.against.measured
    return _NONE if judged.comparison.difference is None else formatting.format_difference(judged, unit)


def _caption(comparison: PaperComparison) -> Iterator[str]:
    setting = comparison.setting
    yield f"Scale {setting.scale.name}: {setting.scale.says}."
    changed = setting.shrunk()
    yield f"Not as in the paper: {'; '.join(changed)}." if changed else "Sizes as in the paper."
    if setting.left_out:
        yield f"Not run: {', '.join(setting.left_out)}."
    seeds = len(setting.seeds)
    yield f"Measured: mean ± standard deviation over {seeds} seeds." if seeds > 1 else "Measured: one seed."
    if not setting.scale.comparable:
        yield "No differences to the paper: runs as small as these cannot be compared with it."
    elif any(column.key == "cer" for column in comparison.columns) and not all(
        map(setting.counts_alike, setting.parts)
    ):
        yield "CER counts errors over other test images or mega-batches than in the paper, hence no difference there."
    yield from _tested_sentence(comparison)
    if setting.table.ours:
        yield f"Ours and not in the paper: {', '.join(setting.table.ours)}."


def _tested_sentence(comparison: PaperComparison) -> Iterator[str]:
    against = [entry.against for row in comparison.rows for entry in row.entries]
    judged = formatting.distinct(one.measured for one in against if one is not None)
    count = len(judged)
    if not count:
        return
    kind = "an exact" if all(one.comparison.exact for one in judged) else f"beyond {EXACT_UP_TO} seeds a sampled"
    shown = any(one.comparison.low is not None for one in judged)
    yield (
        f"Verdicts by {kind} paired sign-flip test, Holm-corrected over {formatting.comparisons(count)}, at p < {ALPHA}"
        f"{f'; in brackets {CONFIDENCE:.0%} intervals' if shown else ''}."
    )
    few = sum(one.verdict == "too few seeds" for one in judged)
    if few:
        of = formatting.comparisons(count)
        yield f"Too few seeds for a verdict in {few} of {of}: {seeds_needed(count)} each would do."


def _caveat_scope(doubt: Caveat) -> str:
    named = [doubt.part, doubt.arm]
    return ", ".join(filter(None, named)) + ": " if any(named) else ""


def _citation(doubt: Caveat) -> str:
    where = f"{_PAGE}, {doubt.source}" if doubt.source.startswith("row") else doubt.source
    return f"{doubt.says} [{where}]"


def _row_name(comparison: PaperComparison, row: ComparedRow) -> str:
    return f"{row.part}, {row.arm}" if len(comparison.setting.axes) > 1 else row.arm


def _markdown(comparison: PaperComparison) -> str:
    escaped = markdown.escape
    lines = [f"**{escaped(comparison.setting.table.title)}**", ""]
    for sheet in sheets(comparison):
        if sheet.title:
            lines += [f"{escaped(sheet.title)}:", ""]
        lines += markdown.head(sheet.heads, sheet.labels)
        lines += [markdown.line(map(escaped, row)) for row in sheet.rows]
        lines.append("")
    lines += [*map(escaped, caption(comparison)), "", *(f"- {escaped(doubt)}" for doubt in caveats(comparison))]
    return "\n".join(lines) + "\n"


def _latex(comparison: PaperComparison) -> str:
    lines = [f"% {comparison.setting.table.title}", r"% Needs \usepackage{booktabs}."]
    for sheet in sheets(comparison):
        if sheet.title:
            lines += ["", r"\medskip", rf"{latex.escape(sheet.title)}:\par"]
        shape = "l" * sheet.labels + "r" * (len(sheet.heads) - sheet.labels)
        lines += [rf"\begin{{tabular}}{{@{{}}{shape}@{{}}}}", r"\toprule", _tex_line(sheet.heads), r"\midrule"]
        lines += [*map(_tex_line, sheet.rows), r"\bottomrule", r"\end{tabular}"]
    small = [*caption(comparison), *caveats(comparison)]
    lines += ["", r"\smallskip", r"{\footnotesize", *(rf"{latex.escape(line)}\par" for line in small), "}"]
    return "\n".join(lines) + "\n"


def _tex_line(cells: Iterable[str]) -> str:
    return rf"{' & '.join(re.sub(r'-(?=[0-9])', '$-$', latex.escape(cell)) for cell in cells)} \\"


_CSV = (
    *("part", "arm", "column", "paper", "paper_std", "n", "measured", "std", "difference"),
    *("paper_against", "against", "low", "high", "p", "adjusted", "verdict", "doubts"),
)


def _csv(comparison: PaperComparison) -> str:
    """A line per row and column, every number at full precision; fractions stay fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(_CSV)
    for row in comparison.rows:
        for place, (entry, column) in enumerate(zip(row.entries, comparison.columns, strict=True)):
            marks = "".join(sorted({*row.part_marks, *row.marks, *entry.marks, *comparison.column_marks[place]}))
            figure, own = entry.printed, entry.measured
            numbers = [None, None] if figure is None else [figure.value, figure.std]
            numbers += [own.n, own.mean, own.std, entry.difference]
            writer.writerow([row.part, row.arm, column.key, *numbers, *_delta_numbers(entry), marks])
    return text.getvalue()


def _delta_numbers(entry: ComparedEntry) -> list[Any]:
    if entry.against is None:
        return [None] * 7
    judged = entry.against.measured
    found = judged.comparison
    return [entry.against.printed, found.difference, found.low, found.high, found.p, judged.adjusted, judged.verdict]


def _json(comparison: PaperComparison) -> str:
    return json.dumps(content(comparison), indent=2, allow_nan=False) + "\n"


def content(comparison: PaperComparison) -> dict[str, Any]:
    """Everything, for other programs: fractions stay fractions, null is what is not there."""
    setting = comparison.setting
    return {
        "schema": SCHEMA,
        "table": setting.table.name,
        "title": setting.table.title,
        "scale": setting.scale.name,
        "comparable": setting.scale.comparable,
        "seeds": list(setting.seeds),
        "baseline": setting.table.baseline,
        "changed": list(setting.shrunk()),
        "not_run": list(setting.left_out),
        "caption": list(caption(comparison)),
        "columns": [_column_info(column) for column in comparison.columns],
        "rows": [
            {
                "part": row.part,
                "arm": row.arm,
                "in_paper": not row.ours,
                "doubts": sorted({*row.part_marks, *row.marks}),
                "note": row.note,
                "entries": {
                    column.key: _entry(entry) for column, entry in zip(comparison.columns, row.entries, strict=True)
                },
            }
            for row in comparison.rows
        ],
        "doubts": [
            {"letter": letter, **dataclasses.asdict(doubt)}
            for letter, doubt in [*comparison.marked.items(), *((None, doubt) for doubt in comparison.doubts)]
        ],
    }


def _column_info(column: Column) -> dict[str, Any]:
    return {"key": column.key, "title": column.title, "unit": column.unit, "higher_is_better": column.higher_is_better}


def _entry(entry: ComparedEntry) -> dict[str, Any]:
    against = None
    if entry.against is not None:
        judged = entry.against.measured
        against = {
            "paper": entry.against.printed,
            **dataclasses.asdict(judged.comparison),
            "adjusted": judged.adjusted,
            "verdict": judged.verdict,
        }
    return {
        "paper": None if entry.printed is None else dataclasses.asdict(entry.printed),
        "measured": dataclasses.asdict(entry.measured),
        "difference": entry.difference,
        "against": against,
        "doubts": list(entry.marks),
    }
