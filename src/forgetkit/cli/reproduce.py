"""``forgetkit reproduce``: the paper's tables and figures beside measured ones."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetkit.cli import options, table_options
from forgetkit.cli.execution import EXECUTION, run_grid
from forgetkit.cli.streams import announce
from forgetkit.display.console import Console, print_json, print_text
from forgetkit.errors import OptionError

if TYPE_CHECKING:
    from forgetkit.ablation.plan import AblationPlan
    from forgetkit.ablation.runner import ExecutionOptions
    from forgetkit.display.cell_display import CellDisplay
    from forgetkit.paper.scaled_table import ScaledTable
    from forgetkit.registry.registry import Registry
    from forgetkit.results.outcome import Outcomes
    from forgetkit.results.render.document import Sheet

OUT = "reproductions"
_OWN: options.Special = {
    "scale": options.run_option(str | None, "--scale", "smoke, cpu or full (default: smoke)", "SCALE"),
    "part": options.run_option(
        list[str] | None, "--part", "a part of the table instead of all, or the scale's (repeatable)", "NAME"
    ),
    "data": options.run_option(
        list[str] | None, "--data", "where a data set of the paper comes from (repeatable)", "NAME=SPEC"
    ),
    "seeds": options.run_option(str | None, "--seeds", "the seeds of each row, like 0-4 (default: the scale's)", "A-B"),
    "set": options.run_option(
        list[str] | None, "--set", "an option of all runs, like device=cuda (repeatable)", "KEY=VALUE"
    ),
    "out": options.run_option(Path | None, "--out", f"folder of the runs (default: {OUT}/NAME-SCALE)", "DIR"),
    "format": options.run_option(str | None, "--format", "rich, markdown, latex, csv or json", "FORMAT"),
    **EXECUTION,
}


def command(*, with_options: bool = True) -> Callable[..., None]:
    """Return the function of the command."""
    return options.command(_reproduce, _signature() if with_options else None)


def _signature() -> inspect.Signature:
    from forgetkit.config import RunConfig

    name = options.argument("name", str | None, "table1 to table10, figure2 to figure11.", "[NAME]")
    return options.signature(_OWN, without=RunConfig.model_fields.keys(), first=[name])


def _reproduce(**arguments: Any) -> None:
    """Run a table or figure of the paper, and print the paper's numbers beside the measured ones.

    Without a name, list the tables and figures. Finished runs and stored answers are kept: the same command does the
    rest.

    Exit status: 0 done, 1 a run failed, 2 a mistake in the command line, 130 interrupted.
    """
    form = _format(arguments["format"], as_json=arguments["json"])
    arguments = {**arguments, "json": form == "json"}
    is_text = form not in (table_options.SCREEN, "json")
    if arguments["name"] is None:
        _require_alone(arguments, form if is_text else None)
        _list(as_json=arguments["json"])
        return
    if is_text and arguments["dry_run"]:
        raise OptionError(f"--dry-run has no table to print as {form}: leave out --format {form}, or use --format json")
    announce("reproduce", quiet=arguments["quiet"], as_json=arguments["json"] or is_text)
    from forgetkit.paper import render, reproduction

    scaled = _scaled_table(arguments)
    arguments["keep"] = reproduction.models_to_keep(scaled, arguments["keep"])
    texts: list[str] = []
    planned: list[tuple[AblationPlan, Registry]] = []

    def plan(execution: ExecutionOptions) -> AblationPlan:
        folder = arguments["out"] or Path(OUT) / reproduction.grid_name(scaled)
        planned.append((reproduction.plan_runs(scaled, folder, execution.components), execution.components))
        return planned[0][0]

    def show(view: CellDisplay, outcomes: Outcomes) -> dict[str, Any]:
        comparison = reproduction.compare_runs(scaled, *planned[0], outcomes, view)
        if is_text:
            texts.append(render.render_comparison(comparison, form))
        elif view.shows and form == table_options.SCREEN:
            _print(view.console, comparison)
        return render.content(comparison)

    try:
        # Standard output is for the text alone.
        with contextlib.redirect_stdout(sys.stderr) if is_text else contextlib.nullcontext():
            run_grid(arguments, plan, show)
    finally:
        for text in texts:
            print_text(text)


def _format(name: str | None, *, as_json: bool) -> str:
    if name is None:  # the formats import torch
        return "json" if as_json else table_options.SCREEN
    from forgetkit.paper.render import FORMATS

    return table_options.choose_format(name, FORMATS, as_json=as_json)


def _require_alone(arguments: Mapping[str, Any], form: str | None) -> None:
    """Raise ``OptionError`` for options that mean nothing to the list of tables."""
    beside = {option: arguments[option] for option in _OWN if option not in ("format", "json")} | {"format": form}
    for option, value in beside.items():
        if value is not None and value is not False and value != []:
            flag = f"--{option.replace('_', '-')}"
            raise OptionError(f"{flag} is for a table and none is named: name one that forgetkit reproduce lists")


def _scaled_table(arguments: Mapping[str, Any]) -> ScaledTable:
    from forgetkit import config
    from forgetkit.ablation.grid import parse_seeds
    from forgetkit.paper.scaled_table import scale_table

    return scale_table(
        arguments["name"],
        arguments["scale"] or "smoke",
        arguments["part"] or (),
        options.parse_pairs("--data", arguments["data"] or (), "NAME=SPEC, like CIFAR10=folder:path=photos,size=32"),
        None if arguments["seeds"] is None else parse_seeds(arguments["seeds"]),
        config.parse_assignments(arguments["set"] or []),
    )


def _list(*, as_json: bool) -> None:
    from forgetkit.display import layout
    from forgetkit.paper import reference

    titles = reference.table_titles()
    if as_json:
        print_json({"tables": titles, "scales": list(reference.SCALES)})
        return
    console = Console()
    console.print(layout.listing(console.width, titles))
    console.print("forgetkit reproduce NAME --scale smoke|cpu|full", markup=False)


def _width(sheet: Sheet) -> int:
    columns = zip(sheet.heads, *sheet.texts, strict=True)
    return sum(max(map(len, column)) + 2 for column in columns)


def _print(console: Console, comparison: Any) -> None:
    from rich.text import Text

    from forgetkit.display import layout
    from forgetkit.paper import render

    console.print(Text(comparison.scaled.table.title, "bold"))
    for line in render.caption(comparison):
        console.print(Text(line))
    for sheet in render.sheets(comparison):
        # A sheet that is too wide becomes a table for each number: no figure is folded.
        for part in [sheet] if _width(sheet) <= console.width else sheet.split():
            figures = range(sheet.labels, len(part.heads))
            console.print(layout.table(console.width, part.heads, part.texts, right=figures, title=part.title))
            console.print()
    for line in render.caveats(comparison):
        console.print(Text(f"- {line}", "dim"))
