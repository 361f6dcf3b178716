"""The options of a run on the command line, from the fields of the configuration, and those that commands share."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forgetkit.cli import completion
from forgetkit.display.console import print_error
from forgetkit.errors import OptionError

if TYPE_CHECKING:
    from forgetkit.registry.registry import Registry

Special = Mapping[str, tuple[Any, Any]]
"""Options that are not part of a run's configuration: type and typer option, by the name of the parameter."""

_PANELS = {
    "preset": "Protocol and method",
    "score_on": "Scoring and what a forgetting leaves behind",
    "dataset": "Data, model and stream",
    "epochs": "Learning",
    "seed": "Machine and measures",
    "out": "Record",
}
"""The first option of each panel of the help."""

_SINGULAR = {"interventions": "intervention", "metrics": "metric", "observers": "observer"}


def run_option(
    kind: Any, flag: str, help_text: str, metavar: str | None = None, *, least: int | None = None
) -> tuple[Any, Any]:
    """Return an option that says how something runs; a number is ``least`` or more."""
    return kind, typer.Option(flag, help=help_text, metavar=metavar, min=least, rich_help_panel="How to run it")


CONFIG = run_option(Path | None, "--config", "a TOML file of options, by the names above", "FILE")
ALLOW_IMPORT = run_option(
    list[str] | None,
    "--allow-import",
    "let a file's import: SPECs run that module's code (repeatable)",
    "MODULE",
)
SET = run_option(list[str] | None, "--set", "another way to give any option (repeatable)", "KEY=VALUE")
JSON = run_option(bool, "--json", "print the result as one JSON object; all else goes to standard error")
QUIET = run_option(bool, "--quiet", "print nothing but errors")
PLUGINS: Special = {
    "no_plugin": run_option(list[str] | None, "--no-plugin", "leave an installed plugin out (repeatable)", "NAME"),
    "plugin": run_option(list[Path] | None, "--plugin", "use a plugin that is a single file (repeatable)", "FILE.py"),
    "strict_plugins": run_option(bool, "--strict-plugins", "fail if an installed plugin is left out"),
}
PluginFiles = typing.Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Use a plugin that is a single file (repeatable).", metavar="FILE.py"),
]
StrictPlugins = typing.Annotated[bool, typer.Option("--strict-plugins", help="Fail if a plugin is left out.")]
AsJson = typing.Annotated[bool, typer.Option("--json", help="Print an object instead of tables.")]


def load_components(arguments: Mapping[str, Any], warn: Callable[[str], None] | None = None) -> Registry:
    """Load the components that a command line may name.

    ``arguments`` has the values of ``plugin``, ``no_plugin`` and ``strict_plugins``, or some of them. Plugins that are
    left out are warned of, on standard error by default; with ``strict_plugins`` they are an error.
    """
    from forgetkit.registry import registry

    warn, files = warn or _warn, arguments.get("plugin") or ()
    found = registry.load(without=arguments.get("no_plugin") or (), files=files)
    if arguments.get("strict_plugins"):
        found.require_all_loaded()
    for warning in (*map(str, found.broken), *_shadowed_builtins(files, found)):
        warn(warning)
    return found


def _warn(message: str) -> None:
    print_error(f"forgetkit: {message}")


def _shadowed_builtins(files: Sequence[Path], found: Registry) -> Iterator[str]:
    """Yield a warning for each component of a file that has the name of a built-in: the plain name means that."""
    for path in files:
        for entry in found.components:
            if entry.distribution == path.stem and found.find(entry.kind, entry.name) is not entry:
                yield f"--plugin {path}: '{entry.name}' means the built-in; write {found.label(entry)} for the file's"


def parse_pairs(flag: str, texts: Iterable[str], example: str = "KEY=VALUE") -> dict[str, str]:
    """Parse the values of a repeatable option, each ``KEY=VALUE``."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise OptionError(f"{flag} {text}: write {example}")
        if key in found:
            raise OptionError(f"{flag} {key} is given twice: leave one out")
        found[key] = value
    return found


def layers(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the TOML file, ``--set`` and the command line merged, and those of ``--set`` alone."""
    from forgetkit import config

    below = (
        config.read_toml(arguments["config"], arguments["allow_import"] or ())
        if arguments["config"] is not None
        else {}
    )
    named = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    named = {key: value for key, value in named.items() if value not in (None, ())}
    assigned = config.parse_assignments(arguments["set"] or [])
    twice = named.keys() & assigned.keys()
    if twice:
        raise OptionError(f"--set {min(twice)} and --{min(twice).replace('_', '-')} are given both: leave one out")
    return config.merge_layers(below, {**assigned, **named}), assigned


def command(function: Callable[..., None], signature: inspect.Signature | None) -> Callable[..., None]:
    """Return ``function`` with a signature for typer.

    None means no options: building them takes long, and only the command that runs needs them.
    """

    def run_with(**arguments: Any) -> None:
        function(**arguments)

    run_with.__doc__ = function.__doc__
    run_with.__signature__ = signature or inspect.Signature()  # type: ignore[attr-defined]
    return run_with


def argument(
    name: str, kind: Any, help_text: str, metavar: str, completes: completion.Offer | None = None
) -> inspect.Parameter:
    """Return an optional word without a flag; ``completes`` gives the shell its completions."""
    annotation = typer.Argument(help=help_text, metavar=metavar, autocompletion=completes)
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=typing.Annotated[kind, annotation]
    )


def signature(
    own: Special, *, without: Collection[str] = (), first: Sequence[inspect.Parameter] = ()
) -> inspect.Signature:
    """Return the signature of a command: ``first``, an option per field of the configuration, ``own``.

    Values are text, except for switches: the configuration checks them, whichever layer they come from.
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
        default = "" if switch or field.default in (None, ()) else f" (default: {field.default})"
        option = typer.Option(
            flag,
            help=f"{field.description}{default}",
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
