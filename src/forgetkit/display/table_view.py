"""The table of an ablation for a screen of any width; a pipe gets all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.padding import Padding
from rich.table import Table as Screen
from rich.text import Text

from forgetkit.display import layout, run_tables
from forgetkit.display.console import Console
from forgetkit.results.line_breaks import break_lines
from forgetkit.results.outcome import Outcomes
from forgetkit.results.plots import series
from forgetkit.results.render import formatting
from forgetkit.results.table import Table, TableRow

_BASELINE = "▸ "
_BEST = "†"
"""Marks the best mean if nothing can be bold."""
_GAP = 2
_NARROW = 14
"""The least width of a label."""
_REASONS = 5


@dataclass(frozen=True)
class _Strip:
    """A column of the screen: a heading, and a text per row."""

    name: str
    texts: tuple[Text, ...]
    justify: Literal["left", "right"] = "right"

    @property
    def heading(self) -> list[str]:
        """The name in lines, broken if it is wider than the texts."""
        return [line.rstrip() for line in break_lines(self.name, _text_width(self.texts))]

    @property
    def width(self) -> int:
        """The letters of the longest line."""
        return max(_text_width(self.texts), *map(cell_len, self.heading))

    def folded(self, width: int) -> _Strip:
        """Fold the texts to ``width`` letters."""
        lines = ([line.rstrip() for line in break_lines(text.plain, width)] for text in self.texts)
        return _Strip(self.name, tuple(Text("\n".join(text)) for text in lines), self.justify)


def show_table(console: Console, table: Table, outcomes: Outcomes, *, briefly: bool = False) -> None:
    """Print ``table`` with each arm's accuracy over the mega-batches, and its legend and notes.

    If a terminal is too narrow, the accuracies are left out, then columns from the right, and a line names them; if
    labels and one column do not fit, each arm becomes a block. The differences to a baseline come first, so that the
    table stays on the screen. ``briefly`` leaves out accuracies and differences, which belong to another table.
    """
    for part in [] if briefly else _differences(table, console.width):
        console.print(part)
    curves = {} if briefly else _curves(outcomes, table.axes)
    marked = console.color_system is None
    figures = [*_seeds(table), *_figures(table, marked), *_anytime(table, curves)]
    width = console.width - (len(_BASELINE) if table.baseline else 0)
    labels, fitting = _fit_columns(_labels(table), figures, width)
    if stacked := _width([*labels, *fitting]) > width:
        fitting = figures
    if title := formatting.one_line(table.title):
        console.print(Text(title, "bold"))
    console.print(Group(*_blocks(table, figures, console.width)) if stacked else _screen(table, [*labels, *fitting]))
    console.print()
    drawn = curves if len(fitting) == len(figures) else {}
    for line in [*formatting.legend(table, _BEST if marked else "Bold:"), *_own_legend(table, drawn)]:
        console.print(Text(line, "dim"))
    for line in [*formatting.notes(table), *_reasons(table)]:
        console.print(Text(layout.hanging_indent(line, console.width, "- ", "  ")))
    if left_out := ", ".join(strip.name for strip in figures[len(fitting) :]):
        console.print(Text(f"No room for {left_out}: widen the terminal, choose --columns, or print to a pipe."))


def _text_width(texts: Sequence[Text]) -> int:
    return max((cell_len(line) for text in texts for line in text.plain.splitlines()), default=0)


def _labels(table: Table) -> list[_Strip]:
    rows = [formatting.labels(row) for row in table.rows]
    return [
        _Strip(formatting.one_line(axis), tuple(Text(row[place]) for row in rows), "left")
        for place, axis in enumerate(table.axes)
    ]


def _seeds(table: Table) -> Iterator[_Strip]:
    """Yield a column of the number of seeds, if rows differ in it."""
    counts = [_count(row) for row in table.rows]
    if len({count for count in counts if count}) > 1:
        yield _Strip("n", tuple(Text(str(count)) for count in counts))


def _figures(table: Table, marked: bool) -> Iterator[_Strip]:
    shown = formatting.format_entries(table)
    for place, column in enumerate(table.columns):
        own = [row[place] for row in shown]
        marks = [_BEST * (one.bold and marked) + formatting.STAR * one.star for one in own]
        width = max(map(len, marks), default=0)
        texts = (
            _figure(row, place, one).append(mark.ljust(width), "bold")
            for row, one, mark in zip(table.rows, own, marks, strict=True)
        )
        yield _Strip(formatting.heading(column), tuple(texts))


def _figure(row: TableRow, place: int, shown: formatting.FormattedEntry) -> Text:
    """Format the mean, bold if it is among the best, and its deviation dim."""
    entry = row.entries[place]
    if entry.summary.mean is None:
        nothing = place == 0 and not _count(row)
        return Text(shown.text if nothing else "–", "red" if nothing and row.unfinished else "")
    text = shown.text.removesuffix(f" (n={entry.summary.n})") if entry.summary.n == _count(row) else shown.text
    mean, sign, spread = text.partition(" ±")
    return Text(mean, "bold" if shown.bold else "").append(sign + spread, "dim")


def _count(row: TableRow) -> int:
    return max((entry.summary.n for entry in row.entries), default=0)


Curves = Mapping[tuple[str, ...], Sequence[float]]


def _curves(outcomes: Outcomes, axes: Sequence[str]) -> Curves:
    """Return the mean test accuracy after each mega-batch, by the labels of the arm."""
    return {
        tuple(curve.arm[axis] for axis in axes): [at.mean for at in curve.at.values() if at.mean is not None]
        for curve in series.accuracies(outcomes)
    }


def _anytime(table: Table, curves: Curves) -> Iterator[_Strip]:
    """Yield a column of curves on one scale."""
    among = [value for curve in curves.values() for value in curve]
    if among:
        found = (curves.get(row.labels) for row in table.rows)
        texts = (Text(run_tables.sparkline(curve, among) if curve else "–") for curve in found)
        yield _Strip("anytime", tuple(texts), "left")


def _fit_columns(labels: Sequence[_Strip], figures: Sequence[_Strip], width: int) -> tuple[list[_Strip], list[_Strip]]:
    """Return the labels, folded if needed, and as many of the first figures as fit."""
    fitting, widths = list(figures), [label.width for label in labels]

    def over(widths: Sequence[int]) -> bool:
        return _in_columns([*widths, *(strip.width for strip in fitting)]) > width

    if fitting and fitting[-1].justify == "left" and over(widths):
        fitting.pop()
    narrow = [min(label.width, label.folded(_NARROW).width) for label in labels]
    while len(fitting) > 1 and over(narrow):
        fitting.pop()
    while over(widths) and widths != narrow:
        wide = [place for place, least in enumerate(narrow) if widths[place] > least]
        widths[max(wide, key=widths.__getitem__)] -= 1
    return [label.folded(own) for label, own in zip(labels, widths, strict=True)], fitting


def _width(strips: Sequence[_Strip]) -> int:
    return _in_columns([strip.width for strip in strips])


def _in_columns(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _blocks(table: Table, figures: Sequence[_Strip], width: int) -> Iterator[Text]:
    """Yield the name of each arm, and below it a line for each of its numbers."""
    for place, row in enumerate(table.rows):
        mark = _BASELINE if row.baseline else " " * len(_BASELINE) if table.baseline else ""
        yield Text(layout.hanging_indent(formatting.arm_label(table, row), width, mark, " " * len(mark)))
        for strip in figures:
            yield Text(
                layout.hanging_indent(f"{strip.name}: {strip.texts[place].plain.strip()}", width, "    ", "      ")
            )


def _screen(table: Table, strips: Sequence[_Strip]) -> Screen:
    strips = _mark_baseline(table, strips) if table.baseline else strips
    screen = _table_with_heads(strips)
    grouped = any(row.repeats for row in table.rows)
    for place, row in enumerate(table.rows):
        if grouped and place and row.repeats == 0:
            screen.add_section()
        screen.add_row(*(strip.texts[place] for strip in strips))
    return screen


def _table_with_heads(strips: Sequence[_Strip], *, head: bool = True) -> Screen:
    """Make a table without rows."""
    screen = Screen(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_header=head)
    depth = max(len(strip.heading) for strip in strips)
    for strip in strips:
        heading = "\n" * (depth - len(strip.heading)) + "\n".join(strip.heading)
        screen.add_column(Text(heading), justify=strip.justify, overflow="fold", width=strip.width)
    return screen


def _differences(table: Table, width: int) -> Iterator[Text | Padding]:
    """Yield the differences to the baseline: the name of an arm, and below it a line per number."""
    compared = formatting.format_differences(table)
    if not compared:
        return
    indent = len(_BASELINE)
    numbers = [one for _, own in compared for one in own]
    strips = _difference_strips(numbers, formatting.difference_heads(table), width - indent)
    lines = zip(*(strip.texts for strip in strips), strict=True)
    yield Text(layout.fold_text(formatting.differences_title(table), width), "bold")
    if _width(strips) > width - indent:
        yield from _differences_in_lines(table, compared, width)
        return
    yield Padding(_table_with_heads(strips), (0, 0, 0, indent), expand=False)
    for row, numbers in compared:
        yield Text("\n".join(line.rstrip() for line in break_lines(formatting.arm_label(table, row), width)))
        screen = _table_with_heads(strips, head=False)
        for line in islice(lines, len(numbers)):
            screen.add_row(*line)
        yield Padding(screen, (0, 0, 0, indent), expand=False)
    yield Text()


def _differences_in_lines(
    table: Table, compared: Sequence[tuple[TableRow, Sequence[formatting.FormattedDifference]]], width: int
) -> Iterator[Text]:
    """Yield a line for each number, for a screen too narrow for columns."""
    for row, numbers in compared:
        yield Text(layout.fold_text(formatting.arm_label(table, row), width))
        for one in numbers:
            difference, p, verdict = one.texts
            line = f"{one.number}: {difference}, {f'corrected p {p}, ' if p != '–' else ''}{verdict}"
            yield Text(layout.hanging_indent(line, width, "  ", "    "))
    yield Text()


def _difference_strips(
    differences: Sequence[formatting.FormattedDifference], heads: tuple[str, str, str], width: int
) -> list[_Strip]:
    """Make the columns; the names of numbers are folded if needed, then the verdicts, never figures."""
    rows = [(one.number, *one.texts) for one in differences]
    texts = [tuple(map(Text, column)) for column in zip(*rows, strict=True)]
    number, (difference, p, verdict) = _Strip("number", texts[0], "left"), heads
    strips = [number, _Strip(difference, texts[1]), _Strip(p, texts[2]), _Strip(verdict, texts[3], "left")]
    for place in (0, -1):
        if sum(strip.width for strip in strips) + _GAP * (len(strips) - 1) > width:
            strips[place] = strips[place].folded(_NARROW)
    return strips


def _mark_baseline(table: Table, strips: Sequence[_Strip]) -> list[_Strip]:
    """Indent the first column, and mark the baseline there."""
    indent = " " * len(_BASELINE)
    first = strips[0]
    texts = (text.plain.replace("\n", f"\n{indent}") for text in first.texts)
    marks = (_BASELINE if row.baseline else indent for row in table.rows)
    pointed = tuple(Text(mark + text) for mark, text in zip(marks, texts, strict=True))
    return [_Strip(indent + first.name, pointed, first.justify), *strips[1:]]


def _own_legend(table: Table, curves: Curves) -> Iterator[str]:
    if table.baseline:
        yield f"{_BASELINE}the baseline."
    among = [value for curve in curves.values() for value in curve]
    if among:
        low, high = (formatting.format_figure(value, "fraction") for value in (min(among), max(among)))
        yield f"anytime: mean test accuracy after each mega-batch, from {low} % (lowest) to {high} % (highest)."


def _reasons(table: Table) -> Iterator[str]:
    """Yield the reasons of failed cells, the most frequent first."""
    lost = Counter(
        (cell.status, formatting.one_line(cell.reason))
        for row in table.rows
        for cell in row.cells
        if cell.status in ("failed", "diverged") and cell.reason
    )
    for (status, reason), count in lost.most_common(_REASONS):
        yield f"{status}: {reason}{f' ({count} cells)' if count > 1 else ''}"
    if len(lost) > _REASONS:
        yield f"{len(lost) - _REASONS} more reasons: --format csv has them all"
