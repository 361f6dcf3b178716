"""What a page says of each analysis that its runs were asked by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from forgetkit.analysis import answers
from forgetkit.analysis.answers import StoredAnswer
from forgetkit.results.columns import answer_columns
from forgetkit.results.outcome import Outcomes
from forgetkit.results.render import formatting
from forgetkit.results.render.formatting import one_line
from forgetkit.results.table import Column, Table, make_table

_REMARKS = 12
"""Of one analysis that are shown; what differs from run to run is in the answers themselves."""


@dataclass(frozen=True)
class AnalysisSection:
    """All answers under one label. ``table`` has the numbers of the arms, None where there are none.

    ``common`` has those about all runs together, each a heading and a figure. Every text is one line without control
    characters.
    """

    label: str
    summary: str
    specs: tuple[str, ...]
    said: str
    table: Table | None
    common: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]


def analysis_sections(outcomes: Outcomes, baseline: Mapping[str, str] | None) -> tuple[AnalysisSection, ...]:
    """Each label once, by the alphabet; ``baseline`` is the arm that others are compared with."""
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
        said=_scope_sentence(own, common, [cell.digest for cell in outcomes.cells if cell.status == "completed"]),
        table=make_table(outcomes, columns, baseline) if columns else None,
        common=tuple(pair for one in common for pair in _numbers(one)),
        remarks=_remarks(own, common),
    )


def _scope_sentence(own: Sequence[StoredAnswer], common: Sequence[StoredAnswer], digests: Sequence[str]) -> str:
    """Which runs were asked, and about which model of theirs."""
    finished = len(digests)
    one_by_one = "the run" if finished == 1 else f"{len(own)} of {finished} finished runs"
    asked = [one_by_one] if own else []
    for one in common:
        together = len(set(one.cells) & {*digests}) if one.cells else finished
        asked.append("all runs together" if together == finished else f"{together} of {finished} runs together")
    after = sorted({one.mega_batch for one in own if one.mega_batch is not None})
    models = (
        f", as {'it' if finished == 1 else 'they'} stood after mega-batch {', '.join(map(str, after))}" if after else ""
    )
    return f"Asked of {' and of '.join(asked)}{models}."


def _numbers(one: StoredAnswer) -> Iterable[tuple[str, str]]:
    """As the table would show them."""
    for key, measure in answers.answer_columns([one]).items():
        better = None if measure.better is None else measure.better == "higher"
        title = answers.column_title(one.label, key, measure)
        heading = formatting.heading(Column(key, title, lambda _: None, better, measure.unit))
        yield heading, "–" if measure.value is None else formatting.format_figure(measure.value, measure.unit)


def _remarks(own: Sequence[StoredAnswer], common: Sequence[StoredAnswer]) -> tuple[str, ...]:
    """Each once, with the number of runs that say it where others do not; those about all runs together first."""
    found: dict[str, int] = {}
    for one in own:
        for remark in dict.fromkeys(map(one_line, one.answer.remarks)):
            found[remark] = found.get(remark, 0) + 1
    said = dict.fromkeys(one_line(remark) for one in common for remark in one.answer.remarks)
    said |= {
        remark if times == len(own) else f"{remark} ({times} of {len(own)} runs)": None
        for remark, times in found.items()
    }
    lines = list(said)
    more = len(lines) - _REMARKS
    return (*lines[:_REMARKS], *([f"and {more} more, in the answers themselves"] if more > 0 else []))
