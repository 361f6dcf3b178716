"""The sections of a page about analyses, one per label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from forgetkit.analysis import answers
from forgetkit.analysis.answers import StoredAnswer
from forgetkit.results.columns import answer_columns
from forgetkit.results.outcome import Outcomes
from forgetkit.results.render import formatting
from forgetkit.results.render.formatting import one_line
from forgetkit.results.table import Column, Table, make_table

_REMARKS = 12  # shown at most per analysis; the stored answers have all


@dataclass(frozen=True)
class AnalysisSection:
    """All answers under one label.

    ``scope`` says which runs were analysed. ``table`` has the numbers of the arms, None if there are none; ``common``
    has the numbers about all runs together, each a heading and a figure. Every text is one line without control
    characters.
    """

    label: str
    summary: str
    specs: tuple[str, ...]
    scope: str
    table: Table | None
    common: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]


def analysis_sections(outcomes: Outcomes, baseline: Mapping[str, str] | None) -> tuple[AnalysisSection, ...]:
    """A section per label, in alphabetical order; ``baseline`` is the arm that others are compared with."""
    labels = {one.label for cell in outcomes.cells for one in cell.answers} | {one.label for one in outcomes.answers}
    return tuple(_analysis_section(outcomes, baseline, label) for label in sorted(labels))


def _analysis_section(outcomes: Outcomes, baseline: Mapping[str, str] | None, label: str) -> AnalysisSection:
    own = [one for cell in outcomes.cells for one in cell.answers if one.label == label]
    common = [one for one in outcomes.answers if one.label == label]
    columns = answer_columns(outcomes, label)
    return AnalysisSection(
        label=one_line(label),
        summary=next((one_line(one.summary) for one in (*own, *common) if one_line(one.summary)), ""),
        specs=tuple(dict.fromkeys(one_line(one.analysis) for one in (*own, *common))),
        scope=_scope_sentence(own, common, [cell.digest for cell in outcomes.cells if cell.status == "completed"]),
        table=make_table(outcomes, columns, baseline) if columns else None,
        common=tuple(pair for one in common for pair in _numbers(one)),
        remarks=_remarks(own, common),
    )


def _scope_sentence(own: Sequence[StoredAnswer], common: Sequence[StoredAnswer], digests: Sequence[str]) -> str:
    finished = len(digests)
    each = "the run" if finished == 1 else f"{len(own)} of {finished} finished runs"
    runs = [each] if own else []
    for one in common:
        together = len(set(one.cells) & {*digests}) if one.cells else finished
        runs.append("all runs together" if together == finished else f"{together} of {finished} runs together")
    after = sorted({one.mega_batch for one in own if one.mega_batch is not None})
    they = "it" if finished == 1 else "they"
    models = f", as {they} stood after mega-batch {', '.join(map(str, after))}" if after else ""
    return f"Asked of {' and of '.join(runs)}{models}."


def _numbers(one: StoredAnswer) -> Iterable[tuple[str, str]]:
    """The numbers as a table shows them."""
    for key, measure in answers.answer_columns([one]).items():
        better = None if measure.better is None else measure.better == "higher"
        title = answers.column_title(one.label, key, measure)
        heading = formatting.heading(Column(key, title, lambda _: None, better, measure.unit))
        yield heading, "–" if measure.value is None else formatting.format_figure(measure.value, measure.unit)


def _remarks(own: Sequence[StoredAnswer], common: Sequence[StoredAnswer]) -> tuple[str, ...]:
    """Each remark once: first those about all runs, then those of runs, with their number if not all make it."""
    counts = Counter(remark for one in own for remark in dict.fromkeys(map(one_line, one.answer.remarks)))
    shared = [one_line(remark) for one in common for remark in one.answer.remarks]
    of_runs = (
        remark if count == len(own) else f"{remark} ({count} of {len(own)} runs)" for remark, count in counts.items()
    )
    lines = list(dict.fromkeys((*shared, *of_runs)))
    more = len(lines) - _REMARKS
    return (*lines[:_REMARKS], *([f"and {more} more, in the answers themselves"] if more > 0 else []))
