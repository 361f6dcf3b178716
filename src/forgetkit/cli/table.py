"""``forgetkit table``: what the cells of an ablation come to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forgetkit.display.console import Console, print_text
from forgetkit.errors import OptionError, RunDirectoryError, suggest

if TYPE_CHECKING:
    from forgetkit.results.cell_store import CellStore
    from forgetkit.results.outcome import Outcomes
    from forgetkit.results.table import Table

_SCREEN = "rich"


def command(
    folder: Annotated[Path, typer.Argument(help="The folder of an ablation.", metavar="DIR")],
    grid: Annotated[
        str | None, typer.Option("--grid", help="Which grid, where the folder holds several.", metavar="NAME")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="rich, markdown, latex, csv, json or html.", metavar="FORMAT")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Numbers of a result; NAME:higher says which is better.", metavar="NAME,NAME"),
    ] = None,
    order: Annotated[
        str | None, typer.Option("--order", help="The column that rows are sorted by, best first.", metavar="COLUMN")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The arm that others are compared with.", metavar="AXIS=VALUE")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print the table of an ablation: a row per arm, mean and standard deviation over its seeds."""
    from forgetkit.display import table_view
    from forgetkit.results.render import render

    form = _format(form, json)
    pool = open_ablation(folder, "table takes that of an ablation")
    outcomes = pool.outcomes(grid)
    table = make_requested_table(outcomes, columns, order, baseline)
    if form != _SCREEN:
        print_text(render(table, form))
        return
    console = Console()
    table_view.show_table(console, table, outcomes)
    if grid is None and (older := pool.grids()[1:]):
        console.print(f"The newest grid of this folder; --grid shows {', '.join(older)}.", markup=False)


def open_ablation(folder: Path, takes: str) -> CellStore:
    """The folder of an ablation; ``takes`` is said where there is no folder, and the folder below where it is that."""
    from forgetkit.results.cell_store import CellStore

    if not folder.is_dir():
        raise RunDirectoryError(f"{folder} is no folder: {takes}")
    pool = CellStore(folder)
    below = sorted({str(note.parents[1]) for note in folder.glob("*/grids/*.json")})
    runs = sorted(str(note.parent) for note in folder.glob("*/manifest.json"))
    if runs and not pool.grids():
        raise RunDirectoryError(f"{folder} holds no grid: {takes}; a run is {' or '.join(runs[:2])}")
    if below and not pool.grids():
        raise RunDirectoryError(f"{folder} holds no grid; did you mean {' or '.join(below[:3])}?")
    return pool


def make_requested_table(outcomes: Outcomes, columns: str | None, order: str | None, baseline: str | None) -> Table:
    """The table that is asked for by the words of a command line."""
    from forgetkit.results.columns import key_of, parse_columns
    from forgetkit.results.table import DEFAULT, make_table

    asked = DEFAULT if columns is None else parse_columns(columns, outcomes)
    return make_table(outcomes, asked, _baseline(baseline, outcomes), None if order is None else key_of(order))


def _format(asked: str | None, json: bool) -> str:
    from forgetkit.results.render import FORMATS

    known = (_SCREEN, *FORMATS)
    if asked is not None and asked not in known:
        raise OptionError(f"there is no format '{asked}'; {suggest(asked, known)}")
    if json and asked not in (None, "json"):
        raise OptionError(f"--json and --format {asked} contradict each other: leave one out")
    return "json" if json else asked or _SCREEN


def _baseline(text: str | None, outcomes: Outcomes) -> dict[str, str] | None:
    """The arm that is meant; None leaves it to the grid."""
    from forgetkit.results.arm import find_baseline, parse_arm

    if text is None:
        return None
    arms = outcomes.arms()
    axes = {axis: list(dict.fromkeys(arm[axis] for arm in arms)) for axis in outcomes.axes}
    return find_baseline(arms, parse_arm("--baseline", text, axes))
