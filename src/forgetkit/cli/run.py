"""``forgetkit run``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetkit.cli import options
from forgetkit.cli.streams import announce
from forgetkit.display.console import print_json
from forgetkit.errors import InsufficientMemoryError, OptionError, RecordError
from forgetkit.system.interrupts import StopRequest, handle_signals

if TYPE_CHECKING:
    from forgetkit.display.run_display import RunDisplay

SPECIAL: options.Special = {
    "config": options.CONFIG,
    "allow_import": options.ALLOW_IMPORT,
    "set": options.SET,
    "resume": options.run_option(
        Path | None,
        "--resume",
        "resume an interrupted run with its options (checkpoints and models may be kept otherwise)",
        "RUN_DIR",
    ),
    "dry_run": options.run_option(bool, "--dry-run", "print the plan and its cost, from a timed sample; write nothing"),
    "json": options.JSON,
    "quiet": options.QUIET,
    **options.PLUGINS,
}


def command(*, with_options: bool = True) -> Callable[..., None]:
    """Return the function of the command, with the options of the configuration."""
    return options.command(_run, options.signature(SPECIAL) if with_options else None)


def _run(**arguments: Any) -> None:
    """Train over a stream of mega-batches, and unlearn between them.

    Without options: LURE on scikit-learn's handwritten digits.

    A SPEC is NAME or NAME:key=value,key=value; `forgetkit show` lists the names.

    Ctrl-C, SIGTERM and the warnings of schedulers save a checkpoint first; a second Ctrl-C stops at once.

    Exit status: 0 done, 1 failed, 2 a mistake in the command line or a file, 130 interrupted.
    """
    special = {name: arguments.pop(name) for name in SPECIAL}
    announce("run", quiet=special["quiet"], as_json=special["json"])
    # A component may print; with --json standard output is for the object alone.
    with contextlib.redirect_stdout(sys.stderr) if special["json"] else contextlib.nullcontext():
        answer = _run_or_explain(special, arguments)
    if special["json"]:
        print_json(answer)


def _run_or_explain(special: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what ``--json`` prints; if the run is stopped, print how to resume it."""
    from forgetkit.display.run_display import choose_run_display

    view = choose_run_display(quiet=special["quiet"], as_json=special["json"])
    stop = StopRequest()
    try:
        with handle_signals(stop, view.say_stopping):
            if special["resume"] is not None:
                view.remember(str(special["resume"]), arguments)
            return _answer(special, arguments, view, stop)
    except KeyboardInterrupt:
        view.warn("interrupted")
        view.say_how_to_resume(_plugins(special))
        raise
    except (RecordError, InsufficientMemoryError):  # a full disk can be emptied, a limit raised
        view.say_how_to_resume(_plugins(special))
        raise


def _answer(special: dict[str, Any], arguments: dict[str, Any], view: RunDisplay, stop: StopRequest) -> dict[str, Any]:
    from forgetkit import config
    from forgetkit.config import machine
    from forgetkit.engine.run import run_plan
    from forgetkit.storage import RunDirectory

    components = options.load_components(special, view.warn)
    if special["resume"] is not None and special["dry_run"]:
        raise OptionError("--dry-run plans a run from its start: leave out --resume")
    chosen, assigned = options.layers(special, arguments)
    resume, offline = None, special["resume"] is not None and "dataset" not in chosen
    if special["resume"] is not None:
        recorded = RunDirectory(special["resume"])
        if recorded.finished:
            if chosen:
                config.resumed_options(recorded.manifest, chosen, components)  # an error if one would be ignored
            view.say(f"{recorded.path} is finished: there is nothing left to do")
            result = recorded.result
            recorded.drop_checkpoints()  # if the process died after it had written the result
            view.show_result(result)
            return result
        resume = RunDirectory.reopen(recorded.path)
        chosen = config.resumed_options(resume.manifest, chosen, components)
    plan = config.resolve(chosen, components, offline=offline)
    config.require_used(assigned, plan, components)
    if special["dry_run"]:
        from forgetkit.engine import dry_run

        with view.progress_context():
            estimate = dry_run.estimate_cost(plan, [view], machine.cache_folder())
        view.show_dry_run(estimate)
        return estimate
    with view.progress_context():
        result = run_plan(plan, observers=[view], cache=machine.cache_folder(), resume=resume, stop=stop)
    view.show_result(result)
    return result


def _plugins(special: dict[str, Any]) -> list[str]:
    """Return the words that resuming needs and the record does not hold."""
    files = [word for path in special["plugin"] or () for word in ("--plugin", str(path))]
    without = [word for name in special["no_plugin"] or () for word in ("--no-plugin", name)]
    return files + without + ["--strict-plugins"] * special["strict_plugins"]
