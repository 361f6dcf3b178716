"""The cells of a grid as a command line runs them: options, signals, and what it prints at the end."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from forgetkit.cli import options
from forgetkit.display.console import print_error, print_json
from forgetkit.errors import RecordError
from forgetkit.system.interrupts import StopRequest, handle_signals

if TYPE_CHECKING:
    from forgetkit.ablation.plan import AblationPlan
    from forgetkit.ablation.runner import ExecutionOptions
    from forgetkit.display.cell_display import CellDisplay
    from forgetkit.results.outcome import Outcomes

EXECUTION: options.Special = {
    "jobs": options.run_option(
        int | None, "--jobs", "cells that run at once, each in a process of its own (default: 1)", "N"
    ),
    "executor": options.run_option(str | None, "--executor", "what runs them, a SPEC (default: local)", "SPEC"),
    "keep": options.run_option(
        str | None,
        "--keep",
        "models that finished cells keep: all, last, none (default: last)",
        "WHICH",
    ),
    "dry_run": options.run_option(
        bool, "--dry-run", "list the cells and what the rest takes, from a timed sample; run none"
    ),
    "json": options.run_option(bool, "--json", "print the table as one JSON object; all else goes to standard error"),
    "quiet": options.QUIET,
    **options.PLUGINS,
}
"""How the cells of a grid are run."""


PlanGrid = Callable[["ExecutionOptions"], "AblationPlan"]
ShowOutcomes = Callable[["CellDisplay", "Outcomes"], dict[str, Any]]
"""Shows the outcomes of a grid, unless the display is quiet, and returns what ``--json`` prints."""


def run_grid(arguments: Mapping[str, Any], plan: PlanGrid, show: ShowOutcomes) -> None:
    """Plan a grid, run it or estimate what that takes, and show the outcomes.

    ``arguments`` holds at least the options in ``EXECUTION``. Exits with status 1 if a cell failed.
    """
    from forgetkit.display.cell_display import choose_cell_display

    view = choose_cell_display(quiet=arguments["quiet"], as_json=arguments["json"])
    try:
        with (
            handle_signals(_ImmediateStop(view)),
            contextlib.redirect_stdout(sys.stderr) if arguments["json"] else contextlib.nullcontext(),
        ):
            execution = _execution_options(arguments, view)
            answer, failed = _estimate_or_run(arguments, plan(execution), execution, view, show)
    except (KeyboardInterrupt, RecordError) as error:
        if isinstance(error, KeyboardInterrupt):
            view.warn("interrupted")
        print_error(f"to go on: {_this_command()}")
        raise
    if arguments["json"]:
        print_json(answer)
    if failed:
        raise typer.Exit(1)


def _estimate_or_run(
    arguments: Mapping[str, Any],
    ablation: AblationPlan,
    execution: ExecutionOptions,
    view: CellDisplay,
    show: ShowOutcomes,
) -> tuple[dict[str, Any], bool]:
    """Return what ``--json`` prints, and whether a cell failed."""
    from forgetkit.ablation.runner import run_ablation

    if arguments["dry_run"]:
        from forgetkit.ablation.estimate import dry_run_content, estimate_ablation

        statuses = ablation.statuses()
        cost = estimate_ablation(ablation, statuses, execution.executor)
        view.show_dry_run(ablation, statuses, cost)
        return dry_run_content(ablation, statuses, cost), False
    outcomes = run_ablation(ablation, execution, view, command=_this_command())
    return show(view, outcomes), any(cell.status in ("failed", "missing") for cell in outcomes.cells)


def _execution_options(arguments: Mapping[str, Any], view: CellDisplay) -> ExecutionOptions:
    from forgetkit.ablation.runner import ExecutionOptions

    return ExecutionOptions.of(
        options.load_components(arguments, view.warn),
        jobs=arguments["jobs"],
        executor=arguments["executor"],
        keep=arguments["keep"] or None,
        plugins=arguments["plugin"] or (),
        without=arguments["no_plugin"] or (),
    )


class _ImmediateStop(StopRequest):
    """Stops at once, with a line if there are workers to wait for."""

    def __init__(self, view: CellDisplay) -> None:
        super().__init__()
        self.view = view

    def request(self) -> None:
        """Stop."""
        self.view.say_stopping()
        super().request()


def _this_command() -> str:
    return shlex.join(["forgetkit", *sys.argv[1:]])
