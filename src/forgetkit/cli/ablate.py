"""``forgetkit ablate``, and what carries out the cells of any grid."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forgetkit.cli import options
from forgetkit.cli.streams import announce
from forgetkit.display.console import print_error, print_json
from forgetkit.errors import ConfigError, OptionError, RecordError
from forgetkit.system.interrupts import StopRequest, handle_signals

if TYPE_CHECKING:
    from forgetkit.ablation.ablation import Ablation
    from forgetkit.contracts import Executor, Keep
    from forgetkit.display.cell_display import CellDisplay
    from forgetkit.registry.registry import Registry
    from forgetkit.results.outcome import Outcomes

OUT = "ablations"
_LONGEST = 80
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


@dataclass(frozen=True)
class ExecutionOptions:
    """With what the cells of a grid are carried out."""

    offers: Registry
    executor: Executor
    keep: Keep
    plugins: tuple[Path, ...]
    without: tuple[str, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any], view: CellDisplay) -> ExecutionOptions:
        """As the options in ``CARRYING_OUT`` say."""
        offers = options.load_components(given, view.warn)
        if given["jobs"] is not None and given["executor"] is not None:
            raise OptionError(f"--jobs {given['jobs']} is short for --executor local:jobs={given['jobs']}: give one")
        if given["jobs"] is not None and given["jobs"] < 1:
            raise OptionError(f"--jobs {given['jobs']}: at least one is needed")
        spec = given["executor"] or f"local:jobs={1 if given['jobs'] is None else given['jobs']}"
        keep: Any = given["keep"] or "last"
        if keep not in ("all", "last", "none"):
            raise OptionError(f"--keep {keep}: write all, last or none")
        executor: Executor = offers.make("executors", spec)[1]
        return cls(offers, executor, keep, tuple(given["plugin"] or ()), tuple(given["no_plugin"] or ()))


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

    def planned(means: ExecutionOptions) -> Ablation:
        return _plan(file, special, given, means.offers)

    conclude_ablation(special, planned, _show)


def _plan(file: Path | None, special: Mapping[str, Any], given: Mapping[str, Any], offers: Registry) -> Ablation:
    from forgetkit import api
    from forgetkit.ablation import grid
    from forgetkit.ablation.ablation import Ablation

    shared, _ = options.layers(special, given)
    asked = grid.extend_grid(
        grid.read_grid(file, special["allow_import"] or ()) if file is not None else None,
        special["over"] or (),
        special["seeds"],
        shared,
        special["baseline"],
        special["exclude"] or (),
    )
    name = special["name"]
    if name is not None and not _is_plain(name):
        raise ConfigError(f"--name {name}: a plain name is wanted, without slashes, of {_LONGEST} bytes at most")
    ablation = Ablation.of(asked, special["out"] or Path(OUT), offers, name=name)
    if special["match"] is None:
        return ablation
    if special["match"] != "samples":
        raise OptionError(f"--match {special['match']}: there is --match samples")
    return ablation.matched(offers, api.cache_folder())


class _ImmediateStop(StopRequest):
    """Stops at once, and says so where the workers do not."""

    def __init__(self, view: CellDisplay) -> None:
        super().__init__()
        self.view = view

    def request(self) -> None:
        """Leave."""
        self.view.say_stopping()
        super().request()


def _is_plain(name: str) -> bool:
    """Whether a file of that name is in the folder that is meant, and in no other."""
    if name in ("", ".", "..") or set(name) & set("/\\"):
        return False
    return name.isprintable() and len(name.encode()) <= _LONGEST


ShowOutcomes = Callable[["CellDisplay", "Outcomes", Mapping[str, Any]], dict[str, Any]]
"""Shows what became of a grid, unless the view is quiet, and returns what ``--json`` prints."""


def conclude_ablation(
    special: Mapping[str, Any], plan: Callable[[ExecutionOptions], Ablation], show: ShowOutcomes
) -> None:
    """Plan a grid, carry it out or say what that would take, and show what came of it.

    ``special`` holds at least what ``CARRYING_OUT`` names. Leaves with status 1 where a cell failed.
    """
    from forgetkit.display import cell_display as cells

    view = cells.choose_cell_display(quiet=special["quiet"], as_json=special["json"])
    try:
        with (
            handle_signals(_ImmediateStop(view)),
            contextlib.redirect_stdout(sys.stderr) if special["json"] else contextlib.nullcontext(),
        ):
            means = ExecutionOptions.of(special, view)
            ablation = plan(means)
            if special["dry_run"]:
                answer, failed = _show_dry_run(ablation, means, view), 0
            else:
                outcomes = run_ablation(ablation, means, view, special)
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


def run_ablation(
    ablation: Ablation, means: ExecutionOptions, view: CellDisplay, special: Mapping[str, Any]
) -> Outcomes:
    """Run what is missing of a grid or failed; what became of all its cells."""
    from forgetkit import api
    from forgetkit.ablation.ablation import run_tasks
    from forgetkit.ablation.progress import ProgressReader
    from forgetkit.display import run_display as screen

    found, name = ablation.found(), ablation.named()
    for remark in dict.fromkeys(state.remark for state in found.values() if state.remark):
        view.warn(remark)
    for remark in ablation.made_otherwise(found):
        view.warn(remark)
    places = ablation.open(found)
    loading = screen.choose_run_display(quiet=special["quiet"], as_json=special["json"])
    with loading.following():
        augment = ablation.require_data(places, found, [loading], api.cache_folder())
    view.say(_status_lines(ablation, found, places))
    _say_augment(view, augment)
    ablation.pool.note(name, ablation.note(_this_command()))
    ablation.remove_stale(found, special["keep"])
    tasks = ablation.tasks(found, keep=means.keep, plugins=means.plugins, without=means.without)
    names = {ablation.digests[place]: str(ablation.cells[place]) for place in places}
    follower = ProgressReader(ablation.pool, [task.digest for task in tasks])
    with view.following(ablation, follower), contextlib.closing(run_tasks(tasks, means.executor)) as answers:
        for task, end in answers:
            follower.end(task.digest)
            result = ablation.pool.find(task.digest).result if end.status == "completed" else None
            view.ended(names[task.digest], task, end, result or {})
    return ablation.outcomes(_this_command())


def _this_command() -> str:
    return shlex.join(["forgetkit", *sys.argv[1:]])


def _status_lines(ablation: Ablation, found: Mapping[str, Any], places: tuple[int, ...]) -> str:
    grid = ablation.grid
    arms, seeds = len(grid.combinations()), len(grid.seeds)
    kept = sum(state.status in ("completed", "diverged") for state in found.values())
    cells = f"{len(ablation.cells)} cells: {arms} arm{'s' * (arms > 1)} at {seeds} seed{'s' * (seeds > 1)}"
    same = len(ablation.cells) - len(found)
    alike = f", of which {same} {'comes' if same == 1 else 'come'} to the same as others" if same else ""
    begun = sum(ablation.pool.directory(ablation.digests[place]).exists() for place in places)
    rest = f"{len(places)} to run" + (f" ({begun} of them begun)" if begun else "")
    return f"{grid.title}: {cells}{alike}; {kept} there already, {rest}, in {ablation.pool.path}"


def _say_augment(view: CellDisplay, augment: Mapping[str, str]) -> None:
    for dataset, chosen in augment.items():
        view.say(f"augment {chosen} (auto) for {dataset}")


def _show_dry_run(ablation: Ablation, means: ExecutionOptions, view: CellDisplay) -> dict[str, Any]:
    """What ``--dry-run`` shows."""
    from forgetkit import api
    from forgetkit.ablation.estimate import estimate_ablation
    from forgetkit.config import machine
    from forgetkit.display import cell_display as cells
    from forgetkit.display import run_tables as tables

    found = ablation.found()
    places = ablation.open(found)
    jobs = getattr(means.executor, "jobs", 1)
    threads = getattr(means.executor, "threads", None) or max(1, machine.default_threads() // jobs)
    cost = estimate_ablation([ablation.plans[place] for place in places], jobs, threads, (), api.cache_folder())
    states = [found[digest].status for digest in ablation.digests]
    view.say(_status_lines(ablation, found, places))
    _say_augment(view, cost.augment)
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
