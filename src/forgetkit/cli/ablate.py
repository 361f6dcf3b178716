"""``forgetkit ablate``, and what shows how the cells of any grid go."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forgetkit.cli import options
from forgetkit.cli.streams import announce
from forgetkit.display.console import print_error, print_json
from forgetkit.errors import RecordError
from forgetkit.system.interrupts import StopRequest, handle_signals

if TYPE_CHECKING:
    from forgetkit.ablation.plan import AblationPlan
    from forgetkit.ablation.runner import ExecutionOptions
    from forgetkit.contracts import Observer
    from forgetkit.display.cell_display import CellDisplay
    from forgetkit.registry.registry import Registry
    from forgetkit.results.outcome import Outcomes

OUT = "ablations"
_NOT_SHARED = ("seed", "out", "name", "keep_models")
"""Options of a run that an ablation gives its cells itself."""


def _option(kind: Any, flag: str, help_text: str, metavar: str | None = None) -> tuple[Any, Any]:
    return kind, options.special_option(flag, help_text, metavar)


CARRYING_OUT: options.Special = {
    "jobs": _option(int | None, "--jobs", "cells carried out at once, each in a process of its own (default: 1)", "N"),
    "executor": _option(str | None, "--executor", "what carries them out, a SPEC (default: local)", "SPEC"),
    "keep": _option(
        str | None,
        "--keep",
        "models that finished cells keep: all, the last, none (default: last)",
        "WHICH",
    ),
    "dry_run": _option(bool, "--dry-run", "list the cells, and what the rest will take, from a timed sample"),
    "json": _option(bool, "--json", "print the table as one JSON object; all else goes to standard error"),
    "quiet": options.QUIET,
    **options.PLUGINS,
}
"""How the cells of a grid are carried out."""

SPECIAL: options.Special = {
    "over": _option(
        list[str] | None,
        "--over",
        "an option and its values; a comma before key= belongs to the SPEC in front of it (repeatable)",
        "KEY=VALUE,VALUE",
    ),
    "exclude": _option(list[str] | None, "--exclude", "a combination to leave out (repeatable)", "KEY=VALUE,KEY=VALUE"),
    "seeds": _option(str | None, "--seeds", "the seeds of each arm, like 0-4 or 0,2,7 (default: 0)", "A-B"),
    "baseline": _option(str | None, "--baseline", "the arm that others are compared with", "KEY=VALUE,KEY=VALUE"),
    "match": _option(str | None, "--match", "compare at equal numbers of training samples, not epochs", "samples"),
    "out": _option(
        Path | None, "--out", f"folder of the cells; grids in one folder share them (default: {OUT})", "DIR"
    ),
    "name": _option(str | None, "--name", "name of the grid in that folder (default: from its title)", "NAME"),
    "config": options.CONFIG,
    "allow_import": options.ALLOW_IMPORT,
    "set": options.SET,
    **CARRYING_OUT,
}


def _execution_options(given: Mapping[str, Any], view: CellDisplay) -> ExecutionOptions:
    """As the options in ``CARRYING_OUT`` say."""
    from forgetkit.ablation.runner import ExecutionOptions

    return ExecutionOptions.of(
        options.load_components(given, view.warn),
        jobs=given["jobs"],
        executor=given["executor"],
        keep=given["keep"] or None,
        plugins=given["plugin"] or (),
        without=given["no_plugin"] or (),
    )


def command(*, with_options: bool = True) -> Callable[..., None]:
    """The function that typer makes the command of; its options are those of a run, and its own."""
    file = options.argument("file", Path | None, "A grid in a file.", "[GRID.toml]")
    signature = options.signature(SPECIAL, without=_NOT_SHARED, first=[file]) if with_options else None
    return options.command(_ablate, signature)


def _ablate(**given: Any) -> None:
    """Compare components over a grid of runs, and end in a table.

    What is there of the cells is kept: the same command again runs what is missing or failed.

    Exit status: 0 done, 1 a cell failed, 2 a mistake in the command line or a file, 130 interrupted.
    """
    special = {name: given.pop(name) for name in SPECIAL}
    file = given.pop("file")
    announce("ablate", quiet=special["quiet"], as_json=special["json"])

    def plan(execution: ExecutionOptions) -> AblationPlan:
        return _plan(file, special, given, execution.offers)

    conclude_ablation(special, plan, _show)


def _plan(file: Path | None, special: Mapping[str, Any], given: Mapping[str, Any], offers: Registry) -> AblationPlan:
    from forgetkit.ablation import grid
    from forgetkit.ablation.plan import AblationPlan

    shared, _ = options.layers(special, given)
    asked = grid.extend_grid(
        grid.read_grid(file, special["allow_import"] or ()) if file is not None else None,
        special["over"] or (),
        special["seeds"],
        shared,
        special["baseline"],
        special["exclude"] or (),
    )
    folder = special["out"] or Path(OUT)
    return AblationPlan.of(asked, folder, offers, name=special["name"], match=special["match"])


class _ImmediateStop(StopRequest):
    """Stops at once, and says so where the workers do not."""

    def __init__(self, view: CellDisplay) -> None:
        super().__init__()
        self.view = view

    def request(self) -> None:
        """Leave."""
        self.view.say_stopping()
        super().request()


ShowOutcomes = Callable[["CellDisplay", "Outcomes", Mapping[str, Any]], dict[str, Any]]
"""Shows what became of a grid, unless the view is quiet, and returns what ``--json`` prints."""


def conclude_ablation(
    special: Mapping[str, Any], plan: Callable[[ExecutionOptions], AblationPlan], show: ShowOutcomes
) -> None:
    """Plan a grid, carry it out or say what that would take, and show what came of it.

    ``special`` holds at least what ``CARRYING_OUT`` names. Leaves with status 1 where a cell failed.
    """
    from forgetkit.ablation.runner import run_ablation
    from forgetkit.display import cell_display as cells

    view = cells.choose_cell_display(quiet=special["quiet"], as_json=special["json"])
    try:
        with (
            handle_signals(_ImmediateStop(view)),
            contextlib.redirect_stdout(sys.stderr) if special["json"] else contextlib.nullcontext(),
        ):
            execution = _execution_options(special, view)
            ablation = plan(execution)
            if special["dry_run"]:
                answer, failed = _show_dry_run(ablation, execution, view), 0
            else:
                loading, command = _loading_shown(special), _this_command()
                outcomes = run_ablation(ablation, execution, view, loading=loading, command=command)
                failed = sum(cell.status in ("failed", "missing") for cell in outcomes.cells)
                answer = show(view, outcomes, special)
    except (KeyboardInterrupt, RecordError) as error:
        if isinstance(error, KeyboardInterrupt):
            view.warn("interrupted")
        print_error(f"to go on: {_this_command()}")
        raise
    if special["json"]:
        print_json(answer)
    if failed:
        raise typer.Exit(1)


@contextlib.contextmanager
def _loading_shown(special: Mapping[str, Any]) -> Iterator[Sequence[Observer]]:
    """Show how data is loaded."""
    from forgetkit.display import run_display as screen

    display = screen.choose_run_display(quiet=special["quiet"], as_json=special["json"])
    with display.following():
        yield [display]


def _this_command() -> str:
    return shlex.join(["forgetkit", *sys.argv[1:]])


def _show_dry_run(ablation: AblationPlan, execution: ExecutionOptions, view: CellDisplay) -> dict[str, Any]:
    """What ``--dry-run`` shows."""
    from forgetkit.ablation.estimate import estimate_ablation
    from forgetkit.ablation.runner import say_augment, status_line
    from forgetkit.config import machine
    from forgetkit.display import cell_display as cells
    from forgetkit.display import run_tables as tables

    found = ablation.found()
    places = ablation.open(found)
    jobs = getattr(execution.executor, "jobs", 1)
    threads = getattr(execution.executor, "threads", None) or max(1, machine.default_threads() // jobs)
    cost = estimate_ablation([ablation.plans[place] for place in places], jobs, threads, (), machine.cache_folder())
    states = [found[digest].status for digest in ablation.digests]
    view.say(status_line(ablation, found))
    say_augment(view, cost.augment)
    if view.shows:
        cells.print_status(view.console, ablation, states)
    memory = "" if cost.memory_bytes is None else f" and {cost.memory_bytes / 2**20:,.0f} MiB of memory"
    view.say(
        f"about {tables.duration(cost.seconds)} with {jobs} at a time{memory}, from a sample of {cost.timed}; "
        "nothing was written"
    )
    return {
        "dry_run": True,
        "title": ablation.grid.title,
        "directory": str(ablation.pool.path),
        "cells": [
            {"arm": dict(cell.arm), "seed": cell.seed, "digest": digest, "status": state}
            for cell, digest, state in zip(ablation.cells, ablation.digests, states, strict=True)
        ],
        "to_run": len(places),
        "augment": dict(cost.augment),
        "estimated_seconds": cost.seconds,
        "estimated_memory_bytes": cost.memory_bytes,
    }


def _show(view: CellDisplay, outcomes: Outcomes, special: Mapping[str, Any]) -> dict[str, Any]:
    """The table, and as an object what ``forgetkit table --json`` gives."""
    from forgetkit.results import render, table

    made = table.make_table(outcomes)
    if view.shows:
        from forgetkit.display import table_view

        table_view.show_table(view.console, made, outcomes)
        folder = shlex.quote(str(special["out"] or OUT))
        view.say(f"more: forgetkit table {folder} --format latex, forgetkit report {folder}")
    answer: dict[str, Any] = json.loads(render.render(made, "json"))
    return answer
