"""``forgetkit table``: the results of an ablation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgetkit.cli import table_options
from forgetkit.display.console import Console, print_text


def command(
    folder: Annotated[Path, typer.Argument(help="The folder of an ablation.", metavar="DIR")],
    grid: table_options.Grid = None,
    form: Annotated[
        str | None, typer.Option("--format", help="rich, markdown, latex, csv, json or html.", metavar="FORMAT")
    ] = None,
    columns: table_options.Columns = None,
    order: table_options.Order = None,
    baseline: table_options.Baseline = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print the table of an ablation: a row per arm, mean and standard deviation over its seeds."""
    from forgetkit.display import table_view
    from forgetkit.results.folder import open_ablation
    from forgetkit.results.render import FORMATS, render

    form = table_options.choose_format(form, FORMATS, as_json=json)
    store = open_ablation(folder, "table takes that of an ablation")
    outcomes = store.outcomes(grid)
    table = table_options.make_requested_table(outcomes, columns, order, baseline)
    if form != table_options.SCREEN:
        print_text(render(table, form))
        return
    console = Console()
    table_view.show_table(console, table, outcomes)
    if grid is None and (older := store.grids()[1:]):
        console.print(f"The newest grid of this folder; --grid shows {', '.join(older)}.", markup=False)
