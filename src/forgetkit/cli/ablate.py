"""``forgetkit ablate``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetkit.cli import options
from forgetkit.cli.execution import EXECUTION, run_grid
from forgetkit.cli.streams import announce

if TYPE_CHECKING:
    from forgetkit.ablation.plan import AblationPlan
    from forgetkit.ablation.runner import ExecutionOptions
    from forgetkit.display.cell_display import CellDisplay
    from forgetkit.registry.registry import Registry
    from forgetkit.results.outcome import Outcomes

OUT = "ablations"
_NOT_SHARED = ("seed", "out", "name", "keep_models")
"""Options of a run that an ablation sets for each cell."""

SPECIAL: options.Special = {
    "over": options.run_option(
        list[str] | None,
        "--over",
        "an option and its values; a comma before key= belongs to the SPEC before it (repeatable)",
        "KEY=VALUE,VALUE",
    ),
    "exclude": options.run_option(
        list[str] | None, "--exclude", "a combination to leave out (repeatable)", "KEY=VALUE,KEY=VALUE"
    ),
    "seeds": options.run_option(str | None, "--seeds", "the seeds of each arm, like 0-4 or 0,2,7 (default: 0)", "A-B"),
    "baseline": options.run_option(
        str | None, "--baseline", "the arm that others are compared with", "KEY=VALUE,KEY=VALUE"
    ),
    "match": options.run_option(
        str | None, "--match", "compare at equal numbers of training samples, not epochs", "samples"
    ),
    "out": options.run_option(
        Path | None, "--out", f"folder of the cells; grids in one folder share them (default: {OUT})", "DIR"
    ),
    "name": options.run_option(
        str | None, "--name", "name of the grid in that folder (default: from its title)", "NAME"
    ),
    "config": options.CONFIG,
    "allow_import": options.ALLOW_IMPORT,
    "set": options.SET,
    **EXECUTION,
}


def command(*, with_options: bool = True) -> Callable[..., None]:
    """Return the function of the command, with the options of a run and its own."""
    file = options.argument("file", Path | None, "A grid in a file.", "[GRID.toml]")
    signature = options.signature(SPECIAL, without=_NOT_SHARED, first=[file]) if with_options else None
    return options.command(_ablate, signature)


def _ablate(**arguments: Any) -> None:
    """Compare components over a grid of runs, and print a table.

    Finished cells are not run again: the same command runs what is missing or failed.

    Exit status: 0 done, 1 a cell failed, 2 a mistake in the command line or a file, 130 interrupted.
    """
    special = {name: arguments.pop(name) for name in SPECIAL}
    file = arguments.pop("file")
    announce("ablate", quiet=special["quiet"], as_json=special["json"])
    folder = special["out"] or Path(OUT)

    def plan(execution: ExecutionOptions) -> AblationPlan:
        return _plan(file, folder, special, arguments, execution.components)

    run_grid(special, plan, lambda view, outcomes: _show(view, outcomes, folder))


def _plan(
    file: Path | None, folder: Path, special: Mapping[str, Any], arguments: Mapping[str, Any], components: Registry
) -> AblationPlan:
    from forgetkit.ablation import grid
    from forgetkit.ablation.plan import AblationPlan

    shared, _ = options.layers(special, arguments)
    extended = grid.extend_grid(
        grid.read_grid(file, special["allow_import"] or ()) if file is not None else None,
        special["over"] or (),
        special["seeds"],
        shared,
        special["baseline"],
        special["exclude"] or (),
    )
    return AblationPlan.of(extended, folder, components, name=special["name"], match=special["match"])


def _show(view: CellDisplay, outcomes: Outcomes, folder: Path) -> dict[str, Any]:
    """Show the table; return what ``forgetkit table --json`` prints."""
    from forgetkit.results import render, table

    found = table.make_table(outcomes)
    if view.shows:
        from forgetkit.display import table_view

        table_view.show_table(view.console, found, outcomes)
        quoted = shlex.quote(str(folder))
        view.say(f"more: forgetkit table {quoted} --format latex, forgetkit report {quoted}")
    content: dict[str, Any] = json.loads(render.render(found, "json"))
    return content
