"""``forgetkit run``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetkit.cli import options
from forgetkit.cli.console import announce, print_json
from forgetkit.errors import InsufficientMemoryError, OptionError, RecordError
from forgetkit.system.interrupts import StopRequest, handle_signals

if TYPE_CHECKING:
    from forgetkit.cli.screen import RunDisplay

SPECIAL: options.Special = {
    "config": options.CONFIG,
    "allow_import": options.ALLOW_IMPORT,
    "set": options.SET,
    "resume": (
        Path | None,
        options.special_option(
            "--resume",
            "go on with an interrupted run, as it was begun (states and models may be kept otherwise)",
            "RUN_DIR",
        ),
    ),
    "dry_run": (
        bool,
        options.special_option("--dry-run", "print the plan and its cost, from a timed sample; write nothing"),
    ),
    "json": options.JSON,
    "quiet": options.QUIET,
    **options.PLUGINS,
}


def command(*, with_options: bool = True) -> Callable[..., None]:
    """The function that typer makes the command of: its signature is the configuration's."""
    return options.command(_run, options.signature(SPECIAL) if with_options else None)


def _run(**given: Any) -> None:
    """Train over a stream of mega-batches, and forget between them.

    Without options: LURE on scikit-learn's handwritten digits.

    A SPEC is NAME or NAME:key=value,key=value; `forgetkit show` lists the names.

    Ctrl-C, SIGTERM and the warnings of schedulers leave a state to go on from; a second Ctrl-C stops at once.

    Exit status: 0 done, 1 failed, 2 a mistake in the command line or a file, 130 interrupted.
    """
    special = {name: given.pop(name) for name in SPECIAL}
    announce("run", quiet=special["quiet"], as_json=special["json"])
    # A stranger's component may print; with --json standard output belongs to the object alone.
    with contextlib.redirect_stdout(sys.stderr) if special["json"] else contextlib.nullcontext():
        answer = _carry_out(special, given)
    if special["json"]:
        print_json(answer)


def _carry_out(special: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Rehearse or run; return what ``--json`` prints. Whatever stops it, the user is told how to go on."""
    from forgetkit.cli import screen

    view = screen.choose_run_display(quiet=special["quiet"], as_json=special["json"])
    halt = StopRequest()
    try:
        with handle_signals(halt, view.say_stopping):
            if special["resume"] is not None:
                view.remember(str(special["resume"]), given)
            return _answer(special, given, view, halt)
    except KeyboardInterrupt:
        view.warn("interrupted")
        view.say_how_to_resume(_plugins(special))
        raise
    except (RecordError, InsufficientMemoryError):  # a full disk can be emptied, a limit raised
        view.say_how_to_resume(_plugins(special))
        raise


def _answer(special: dict[str, Any], given: dict[str, Any], view: RunDisplay, halt: StopRequest) -> dict[str, Any]:
    from forgetkit import api, config
    from forgetkit.engine.run import run_plan
    from forgetkit.storage import RunDirectory

    offers = options.load_components(special, view.warn)
    if special["resume"] is not None and special["dry_run"]:
        raise OptionError("--dry-run plans a run from its start: leave out --resume")
    asked, assigned = options.layers(special, given)
    resume, offline = None, special["resume"] is not None and "dataset" not in asked
    if special["resume"] is not None:
        there = RunDirectory(special["resume"])
        if there.finished:
            if asked:
                config.resumed_options(there.manifest, asked, offers)  # says what would be ignored
            view.say(f"{there.path} is finished: there is nothing left to do")
            result = there.result
            there.drop_checkpoints()  # if the process died after it had written the result
            view.show_result(result)
            return result
        resume = RunDirectory.reopen(there.path)
        asked = config.resumed_options(resume.manifest, asked, offers)
    plan = config.resolve(asked, offers, offline=offline)
    config.require_used(assigned, plan, offers)
    if special["dry_run"]:
        from forgetkit.engine import dry_run

        with view.following():
            estimate = dry_run.estimate_cost(plan, [view], api.cache_folder())
        view.show_dry_run(estimate)
        return estimate
    with view.following():
        result = run_plan(plan, observers=[view], cache=api.cache_folder(), resume=resume, stop=halt)
    view.show_result(result)
    return result


def _plugins(special: dict[str, Any]) -> list[str]:
    """What a run's record does not hold of its command line, and resuming needs."""
    files = [word for path in special["plugin"] or () for word in ("--plugin", str(path))]
    without = [word for name in special["no_plugin"] or () for word in ("--no-plugin", name)]
    return files + without + ["--strict-plugins"] * special["strict_plugins"]
