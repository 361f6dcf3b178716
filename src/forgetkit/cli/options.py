"""The options of a run on the command line: one for each field of the configuration, declared there alone."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forgetkit.cli import completion
from forgetkit.errors import OptionError

if TYPE_CHECKING:
    from forgetkit.registry.registry import Registry

Special = Mapping[str, tuple[Any, Any]]
"""What is not part of a run's configuration: the type and the option of each, by the name of the parameter."""

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


def special_option(flag: str, help_text: str, metavar: str | None = None, *, least: int | None = None) -> Any:
    """An option that says how something is carried out; a number is ``least`` at the least."""
    return typer.Option(flag, help=help_text, metavar=metavar, min=least, rich_help_panel="How to run it")


CONFIG = (Path | None, special_option("--config", "a TOML file of options, by the names above", "FILE"))
ALLOW_IMPORT = (
    list[str] | None,
    special_option("--allow-import", "let a file's import: SPECs run that module's code (repeatable)", "MODULE"),
)
SET = (list[str] | None, special_option("--set", "another way to give any option (repeatable)", "KEY=VALUE"))
JSON = (bool, special_option("--json", "print the result as one JSON object; all else goes to standard error"))
QUIET = (bool, special_option("--quiet", "print nothing but errors"))
PLUGINS: Special = {
    "no_plugin": (
        list[str] | None,
        special_option("--no-plugin", "leave an installed plugin out (repeatable)", "NAME"),
    ),
    "plugin": (
        list[Path] | None,
        special_option("--plugin", "use a plugin that is a single file (repeatable)", "FILE.py"),
    ),
    "strict_plugins": (bool, special_option("--strict-plugins", "fail where an installed plugin is left out")),
}


def load_components(given: Mapping[str, Any], warn: Callable[[str], None]) -> Registry:
    """The components that a command line may name; what is wrong with plugins is said, or fails where that is asked."""
    from forgetkit.registry import registry

    found = registry.load(without=given["no_plugin"] or (), files=given["plugin"] or ())
    if given["strict_plugins"]:
        found.require_all_loaded()
    for broken in found.broken:
        warn(str(broken))
    for warning in _shadowed_builtins(given["plugin"] or (), found):
        warn(warning)
    return found


def _shadowed_builtins(files: Sequence[Path], found: Registry) -> Iterator[str]:
    """What a file offers under the name of a built-in, which the plain name goes on to mean."""
    for path in files:
        for offer in found.components:
            if offer.distribution == path.stem and found.find(offer.kind, offer.name) is not offer:
                yield f"--plugin {path}: '{offer.name}' means the built-in; write {found.label(offer)} for the file's"


def layers(given: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The TOML file's options, over them ``--set``, over them the command line's; and those of ``--set`` alone."""
    from forgetkit import config

    below = config.read_toml(given["config"], given["allow_import"] or ()) if given["config"] is not None else {}
    named = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    named = {key: value for key, value in named.items() if value not in (None, ())}
    assigned = config.parse_assignments(given["set"] or [])
    twice = named.keys() & assigned.keys()
    if twice:
        raise OptionError(f"--set {min(twice)} and --{min(twice).replace('_', '-')} are given both: leave one out")
    return config.merge_layers(below, {**assigned, **named}), assigned


def command(function: Callable[..., None], signature: inspect.Signature | None) -> Callable[..., None]:
    """What typer makes a command of: ``function`` with a signature that is put together; None is no options at all.

    Where the help of another command is asked for, nothing needs the options, and they take long to put together.
    """

    def carried_out(**given: Any) -> None:
        function(**given)

    carried_out.__doc__ = function.__doc__
    carried_out.__signature__ = signature or inspect.Signature()  # type: ignore[attr-defined]
    return carried_out


def argument(
    name: str, kind: Any, help_text: str, metavar: str, completes: completion.Offer | None = None
) -> inspect.Parameter:
    """A word without a flag, which may be left out; a shell is offered what ``completes`` it."""
    told = typer.Argument(help=help_text, metavar=metavar, autocompletion=completes)
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=typing.Annotated[kind, told]
    )


def signature(
    own: Special, *, without: Collection[str] = (), first: Sequence[inspect.Parameter] = ()
) -> inspect.Signature:
    """The signature of a command: ``first``, an option per field of the configuration, ``own``.

    Values travel as text, but for switches: the configuration checks them, whichever layer they come from.
    """
    from forgetkit.config import RunConfig

    parameters = list(first)
    panel = ""
    for name, field in RunConfig.model_fields.items():
        panel = _PANELS.get(name, panel)
        if name in without:
            continue
        several, switch = typing.get_origin(field.annotation) is tuple, field.annotation is bool
        flag = "--" + _SINGULAR.get(name, name).replace("_", "-")
        stated = "" if switch or field.default in (None, ()) else f" (default: {field.default})"
        option = typer.Option(
            flag,
            help=f"{field.description}{stated}",
            metavar=None if switch else _metavar(field.annotation),
            autocompletion=None if switch else completion.for_option(name, field.annotation),
            rich_help_panel=panel,
            show_default=False,
        )
        kind: Any = list[str] | None if several else bool | None if switch else str | None
        parameters.append(_parameter(name, kind, option, None))
    for name, (kind, option) in own.items():
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
    words = [word for kind in kinds if typing.get_origin(kind) is typing.Literal for word in typing.get_args(kind)]
    if words:
        return "|".join([*words, "N"])
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return "N,N"
    return {int: "N", float: "X"}.get(kinds[0], "TEXT")
