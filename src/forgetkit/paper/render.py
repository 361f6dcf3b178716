"""A comparison with the paper as text: the same comparison always the same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from forgetkit.contracts import Unit
from forgetkit.paper.comparison import ComparedEntry, ComparedRow, PaperComparison
from forgetkit.paper.reference import Caveat
from forgetkit.results.render import format_document, formatting, require_format
from forgetkit.results.render.document import Block, Document, Heading, Remarks, Sheet, TextCell, TextColumn, TextRow
from forgetkit.results.render.json import column_content, judgement_content
from forgetkit.results.statistics import ALPHA, CONFIDENCE, EXACT_UP_TO, seeds_needed

FORMATS = ("markdown", "latex", "csv", "json")
SCHEMA = 1
_NONE = "–"
_PAGE = "docs/reproducibility.md"
_RECORD = (
    *("part", "arm", "column", "paper", "paper_std", "n", "measured", "std", "difference"),
    *("paper_against", "against", "low", "high", "p", "adjusted", "verdict", "doubts"),
)


def render_comparison(comparison: PaperComparison, form: str) -> str:
    """Return ``comparison`` in one of ``FORMATS``, with a newline at the end."""
    require_format(form, FORMATS)
    main, *others = sheets(comparison)
    blocks: list[Block] = [dataclasses.replace(main, title=comparison.scaled.table.title)]
    for sheet in others:
        blocks += [Heading(f"{sheet.title}:"), dataclasses.replace(sheet, title="")]
    blocks.append(Remarks(caption(comparison), caveats(comparison)))
    return format_document(Document(blocks, _records(comparison), content(comparison), fit=False), form)


def sheets(comparison: PaperComparison) -> tuple[Sheet, ...]:
    """The paper beside what was measured, then both against the baseline if anything is compared with it."""
    against = _baseline_sheet(comparison)
    return (_main_sheet(comparison), against) if against.rows else (_main_sheet(comparison),)


def caption(comparison: PaperComparison) -> tuple[str, ...]:
    """The scale, what was changed for it, what was not run, and how to read the rest."""
    return tuple(_caption(comparison))


def caveats(comparison: PaperComparison) -> tuple[str, ...]:
    """Those with a letter, those about the whole table, and rows that lost seeds."""
    lettered = (f"({letter}) {_caveat_scope(one)}{_citation(one)}" for letter, one in comparison.lettered.items())
    lost = (f"{_row_name(comparison, row)}: {row.note}." for row in comparison.rows if row.note)
    return (*lettered, *map(_citation, comparison.caveats), *lost)


def _main_sheet(comparison: PaperComparison) -> Sheet:
    differing = ("difference",) if comparison.scaled.scale.comparable else ()
    columns: list[TextColumn] = []
    for position, column in enumerate(comparison.columns):
        heads = ("paper", "measured", *differing) if _has_figures(comparison, position) else ("measured",)
        group = f"{formatting.heading(column)}{_letters(comparison.column_marks[position])}"
        columns += [TextColumn(head, group=group) for head in heads]

    def cells(row: ComparedRow) -> Iterator[str]:
        for position, (entry, column) in enumerate(zip(row.entries, comparison.columns, strict=True)):
            has_figures = _has_figures(comparison, position)
            if has_figures:
                yield _paper_number(entry, column.unit)
            constant_cost = column.higher_is_better is None and entry.measured.std == 0
            yield _spread(entry.measured.mean, None if constant_cost else entry.measured.std, column.unit)
            if has_figures and differing:
                yield _signed(entry.difference, column.unit)

    return _sheet(comparison, "", columns, [(row, tuple(cells(row))) for row in comparison.rows])


def _baseline_sheet(comparison: PaperComparison) -> Sheet:
    compared = [row for row in comparison.rows if any(entry.against for entry in row.entries)]
    columns: list[TextColumn] = []
    for position, column in enumerate(comparison.columns):
        if any(row.entries[position].against for row in comparison.rows):
            heads = ("paper", "measured", "verdict") if _has_figures(comparison, position) else ("measured", "verdict")
            columns += [TextColumn(head, group=formatting.heading(column)) for head in heads]

    def cells(row: ComparedRow) -> Iterator[str]:
        for position, (entry, column) in enumerate(zip(row.entries, comparison.columns, strict=True)):
            if entry.against is None:
                continue
            if _has_figures(comparison, position):
                yield _signed(entry.against.printed, column.unit)
            judged = entry.against.measured
            no_seed = judged.comparison.difference is None
            yield _NONE if no_seed else formatting.format_difference(judged, column.unit)
            yield judged.verdict

    title = f"Difference to {comparison.scaled.table.baseline}"
    return _sheet(comparison, title, columns, [(row, tuple(cells(row))) for row in compared])


def _sheet(
    comparison: PaperComparison,
    title: str,
    columns: Sequence[TextColumn],
    rows: Sequence[tuple[ComparedRow, tuple[str, ...]]],
) -> Sheet:
    """Rows with their labels: a part is named in its first row alone."""
    axes = comparison.scaled.axes
    made, above = [], None
    for row, cells in rows:
        labels = [f"{row.part}{_letters(row.part_marks)}", f"{row.arm}{_letters(row.marks)}"][-len(axes) :]
        made.append(TextRow(tuple(map(TextCell, (*labels, *cells))), int(len(axes) > 1 and row.part == above)))
        above = row.part
    return Sheet(title, (*(TextColumn(axis, "label") for axis in axes), *columns), tuple(made))


def _has_figures(comparison: PaperComparison, position: int) -> bool:
    return any(row.entries[position].printed is not None for row in comparison.rows)


def _letters(marks: str) -> str:
    return f" ({', '.join(marks)})" if marks else ""


def _paper_number(entry: ComparedEntry, unit: Unit) -> str:
    figure = entry.printed
    return _NONE if figure is None else f"{_spread(figure.value, figure.std, unit)}{_letters(entry.marks)}"


def _spread(mean: float | None, std: float | None, unit: Unit) -> str:
    if mean is None:
        return _NONE
    return formatting.format_figure(mean, unit) + ("" if std is None else f" ± {formatting.format_figure(std, unit)}")


def _signed(value: float | None, unit: Unit) -> str:
    if value is None:
        return _NONE
    text = formatting.format_figure(value, unit)
    return text if text.startswith("-") else f"+{text}"


def _caption(comparison: PaperComparison) -> Iterator[str]:
    scaled = comparison.scaled
    yield f"Scale {scaled.scale.name}: {scaled.scale.says}."
    changed = scaled.changes_from_paper()
    yield f"Not as in the paper: {'; '.join(changed)}." if changed else "Sizes as in the paper."
    if scaled.left_out:
        yield f"Not run: {', '.join(scaled.left_out)}."
    seeds = len(scaled.seeds)
    yield f"Measured: mean ± standard deviation over {seeds} seeds." if seeds > 1 else "Measured: one seed."
    if not scaled.scale.comparable:
        yield "No differences to the paper: runs as small as these cannot be compared with it."
    elif any(column.key == "cer" for column in comparison.columns) and not all(map(scaled.counts_alike, scaled.parts)):
        yield "CER counts errors over other test images or mega-batches than in the paper, hence no difference there."
    yield from _test_sentences(comparison)
    if scaled.table.ours:
        yield f"Ours and not in the paper: {', '.join(scaled.table.ours)}."


def _test_sentences(comparison: PaperComparison) -> Iterator[str]:
    against = [entry.against for row in comparison.rows for entry in row.entries]
    judged = formatting.distinct(one.measured for one in against if one is not None)
    if not judged:
        return
    count = formatting.comparisons(len(judged))
    kind = "an exact" if all(one.comparison.exact for one in judged) else f"beyond {EXACT_UP_TO} seeds a sampled"
    intervals = any(one.comparison.low is not None for one in judged)
    yield (
        f"Verdicts by {kind} paired sign-flip test, Holm-corrected over {count}, at p < {ALPHA}"
        f"{f'; in brackets {CONFIDENCE:.0%} intervals' if intervals else ''}."
    )
    few = sum(one.verdict == "too few seeds" for one in judged)
    if few:
        yield f"Too few seeds for a verdict in {few} of {count}: {seeds_needed(len(judged))} each are enough."


def _caveat_scope(caveat: Caveat) -> str:
    named = [caveat.part, caveat.arm]
    return ", ".join(filter(None, named)) + ": " if any(named) else ""


def _citation(caveat: Caveat) -> str:
    where = f"{_PAGE}, {caveat.source}" if caveat.source.startswith("row") else caveat.source
    return f"{caveat.says} [{where}]"


def _row_name(comparison: PaperComparison, row: ComparedRow) -> str:
    return f"{row.part}, {row.arm}" if len(comparison.scaled.axes) > 1 else row.arm


def _records(comparison: PaperComparison) -> Iterator[Sequence[Any]]:
    """A record per row and column, every number at full precision; fractions stay fractions."""
    yield _RECORD
    for row in comparison.rows:
        for entry, column, own in zip(row.entries, comparison.columns, comparison.column_marks, strict=True):
            marks = "".join(sorted({*row.part_marks, *row.marks, *entry.marks, *own}))
            paper = (None, None) if entry.printed is None else (entry.printed.value, entry.printed.std)
            measured = entry.measured.n, entry.measured.mean, entry.measured.std, entry.difference
            yield [row.part, row.arm, column.key, *paper, *measured, *_delta_record(entry), marks]


def _delta_record(entry: ComparedEntry) -> list[Any]:
    if entry.against is None:
        return [None] * 7
    judged = entry.against.measured
    found = judged.comparison
    return [entry.against.printed, found.difference, found.low, found.high, found.p, judged.adjusted, judged.verdict]


def content(comparison: PaperComparison) -> dict[str, Any]:
    """All numbers, for other programs: fractions stay fractions, and None stands for a number that is missing."""
    scaled = comparison.scaled
    return {
        "schema": SCHEMA,
        "table": scaled.table.name,
        "title": scaled.table.title,
        "scale": scaled.scale.name,
        "comparable": scaled.scale.comparable,
        "seeds": list(scaled.seeds),
        "baseline": scaled.table.baseline,
        "changed": list(scaled.changes_from_paper()),
        "not_run": list(scaled.left_out),
        "caption": list(caption(comparison)),
        "columns": list(map(column_content, comparison.columns)),
        "rows": [
            {
                "part": row.part,
                "arm": row.arm,
                "in_paper": not row.ours,
                "doubts": sorted({*row.part_marks, *row.marks}),
                "note": row.note,
                "entries": {
                    column.key: _entry_content(entry)
                    for column, entry in zip(comparison.columns, row.entries, strict=True)
                },
            }
            for row in comparison.rows
        ],
        "doubts": [
            {"letter": letter, **dataclasses.asdict(caveat)}
            for letter, caveat in [*comparison.lettered.items(), *((None, one) for one in comparison.caveats)]
        ],
    }


def _entry_content(entry: ComparedEntry) -> dict[str, Any]:
    against = entry.against
    return {
        "paper": None if entry.printed is None else dataclasses.asdict(entry.printed),
        "measured": dataclasses.asdict(entry.measured),
        "difference": entry.difference,
        "against": None if against is None else {"paper": against.printed, **judgement_content(against.measured)},
        "doubts": list(entry.marks),
    }
