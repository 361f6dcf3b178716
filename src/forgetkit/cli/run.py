"""``forgetkit run``."""

from __future__ import annotations

import contextlib
import inspect
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forgetkit.cli.console import print_json
from forgetkit.errors import OptionError, RecordError

if TYPE_CHECKING:
    from forgetkit.cli.screen import View
    from forgetkit.registry import Registry

_PANELS = {
    "preset": "Protocol and method",
    "score_on": "Scoring and what a forgetting leaves behind",
    "dataset": "Data, model and stream",
    "epochs": "Learning",
    "seed": "Machine and measures",
    "out": "Record",
}
"""The option of the configuration that each panel of the help begins with."""

_SINGULAR = {"interventions": "intervention", "metrics": "metric", "observers": "observer"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken as an interruption: the last checkpoint stays, and the user is told how to go on."""


def command(*, with_options: bool = True) -> Callable[..., None]:
    """The function that typer makes the command of: its signature is the configuration's.

    Reading that takes as long as the rest of the help of ``forgetkit``, which has no use for it.
    """

    def run(**given: Any) -> None:
        _run(**given)

    run.__doc__ = _run.__doc__
    run.__signature__ = _signature() if with_options else inspect.Signature()  # type: ignore[attr-defined]
    return run


def _run(**given: Any) -> None:
    """Train over a stream of mega-batches, and forget between them.

    Without options: LURE on scikit-learn's handwritten digits.

    A SPEC is NAME or NAME:key=value,key=value; `forgetkit show` lists the names.

    Exit status: 0 done, 1 failed, 2 a mistake in the command line or a file, 130 interrupted.
    """
    special = {name: given.pop(name) for name in _SPECIAL}
    # A stranger's component may print; with --json standard output belongs to the object alone.
    with contextlib.redirect_stdout(sys.stderr) if special["json"] else contextlib.nullcontext():
        answer = _carry_out(special, given)
    if special["json"]:
        print_json(answer)


def _carry_out(special: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Rehearse or run; return what ``--json`` prints. Whatever stops it, the user is told how to go on."""
    from forgetkit.cli import screen

    view = screen.choose(quiet=special["quiet"], as_json=special["json"])
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _answer(special, given, view)
    except KeyboardInterrupt:
        view.warn("interrupted")
        view.say_how_to_resume(_plugins(special))
        raise
    except RecordError:  # a full disk can be emptied
        view.say_how_to_resume(_plugins(special))
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _answer(special: dict[str, Any], given: dict[str, Any], view: View) -> dict[str, Any]:
    from forgetkit import api, config, registry
    from forgetkit.alma import run
    from forgetkit.record import RunDirectory

    offers = registry.load(without=special["no_plugin"] or (), files=special["plugin"] or ())
    if special["strict_plugins"]:
        offers.require_whole()
    for broken in offers.broken:
        view.warn(str(broken))
    for warning in _overshadowed(special["plugin"] or (), offers):
        view.warn(warning)
    if special["resume"] is not None and special["dry_run"]:
        raise OptionError("--dry-run plans a run from its start: leave out --resume")
    options, assigned = _layers(special, given)
    resume = None
    if special["resume"] is not None:
        resume = RunDirectory.reopen(special["resume"])
        options = config.resumed(resume.manifest, options, offers)
    plan = config.resolve(options, offers)
    config.require_used(assigned, plan, offers)
    if special["dry_run"]:
        from forgetkit import rehearsal

        with view.following():
            rehearsed = rehearsal.rehearse(plan, [view], api.cache_folder())
        view.show_rehearsal(rehearsed)
        return rehearsed
    with view.following():
        result = run(plan, observers=[view], cache=api.cache_folder(), resume=resume)
    view.show_result(result)
    return result


def _overshadowed(files: Sequence[Path], offers: Registry) -> Iterator[str]:
    """What a file offers under the name of a built-in, which the plain name goes on to mean."""
    for path in files:
        for offer in offers.offers:
            if offer.distribution == path.stem and offers.find(offer.kind, offer.name) is not offer:
                yield f"--plugin {path}: '{offer.name}' means the built-in; write {offers.label(offer)} for the file's"


def _plugins(special: dict[str, Any]) -> list[str]:
    """What a run's record does not hold of its command line, and resuming needs."""
    files = [word for path in special["plugin"] or () for word in ("--plugin", str(path))]
    without = [word for name in special["no_plugin"] or () for word in ("--no-plugin", name)]
    return files + without + ["--strict-plugins"] * special["strict_plugins"]


def _layers(special: dict[str, Any], given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The TOML file's options, over them ``--set``, over them the command line's; and those of ``--set`` alone."""
    from forgetkit import config

    options = config.read_toml(special["config"]) if special["config"] is not None else {}
    named = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    named = {key: value for key, value in named.items() if value not in (None, ())}
    assigned = config.settings(special["set"] or [])
    twice = named.keys() & assigned.keys()
    if twice:
        raise OptionError(f"--set {min(twice)} and --{min(twice).replace('_', '-')} are given both: leave one out")
    return config.layered(options, {**assigned, **named}), assigned


def _terminate(number: int, frame: types.FrameType | None) -> None:
    raise Terminated


def _special(flag: str, help_text: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=help_text, metavar=metavar, rich_help_panel="How to run it")


_SPECIAL: dict[str, tuple[Any, Any]] = {
    "config": (Path | None, _special("--config", "a TOML file of options, by the names above", "FILE")),
    "set": (list[str] | None, _special("--set", "another way to give any option (repeatable)", "KEY=VALUE")),
    "resume": (Path | None, _special("--resume", "go on with an interrupted run", "RUN_DIR")),
    "dry_run": (bool, _special("--dry-run", "print the plan and its cost, from a timed sample; write nothing")),
    "json": (bool, _special("--json", "print the result as one JSON object; all else goes to standard error")),
    "quiet": (bool, _special("--quiet", "print nothing but errors")),
    "no_plugin": (list[str] | None, _special("--no-plugin", "leave an installed plugin out (repeatable)", "NAME")),
    "plugin": (list[Path] | None, _special("--plugin", "use a plugin that is a single file (repeatable)", "FILE.py")),
    "strict_plugins": (bool, _special("--strict-plugins", "fail where an installed plugin is left out")),
}
"""What is not part of a run's configuration: the type and the option of each."""


def _signature() -> inspect.Signature:
    """One option per field of the configuration, so that each is declared in one place only.

    Values travel as text: the configuration checks them, whichever layer they come from.
    """
    from forgetkit.config import RunConfig

    parameters = []
    panel = ""
    for name, field in RunConfig.model_fields.items():
        panel = _PANELS.get(name, panel)
        several = typing.get_origin(field.annotation) is tuple
        flag = "--" + _SINGULAR.get(name, name).replace("_", "-")
        stated = "" if field.default in (None, ()) else f" (default: {field.default})"
        option = typer.Option(
            flag,
            help=f"{field.description}{stated}",
            metavar=_metavar(field.annotation),
            rich_help_panel=panel,
            show_default=False,
        )
        kind: Any = list[str] | None if several else str | None
        parameters.append(_parameter(name, kind, option, None))
    for name, (kind, option) in _SPECIAL.items():
        parameters.append(_parameter(name, kind, option, False if kind is bool else None))
    return inspect.Signature(parameters)


def _parameter(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    annotation = typing.Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _metavar(annotation: Any) -> str:
    kinds = [kind for kind in (typing.get_args(annotation) or (annotation,)) if kind is not types.NoneType]
    kinds = [typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind for kind in kinds]
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(kinds)
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return "N,N"
    return {int: "N", float: "X"}.get(kinds[0], "TEXT")
