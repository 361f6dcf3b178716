"""``forgetkit plugins``: list, show, check and scaffold plugins."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from forgetkit.cli import options
from forgetkit.display import layout
from forgetkit.display.console import Console, print_json
from forgetkit.errors import OptionError, suggest
from forgetkit.registry import entry_points

if TYPE_CHECKING:
    from forgetkit.registry.registry import ComponentEntry, Registry
    from forgetkit.registry.spec import Spec
    from forgetkit.testing import Verdict

_Kind = Annotated[str | None, typer.Option("--kind", help="importance, reinit, replay, …", metavar="KIND")]


def application() -> typer.Typer:
    """The commands below ``forgetkit plugins``."""
    app = typer.Typer(help="List, show and check plugins, or write a new one.")
    app.callback(invoke_without_command=True)(_without_command)
    app.command("list")(_list)
    app.command("show")(_show)
    app.command("check")(_check)
    app.command("new")(_new)
    return app


def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        _list()


def _list(
    load: Annotated[bool, typer.Option("--load", help="Import each: what it offers, or why it is left out.")] = False,
    json: options.AsJson = False,
) -> None:
    """List the installed plugins, from their metadata alone."""
    entries = _load_entries() if load else [_entry(point) for point in entry_points.plugins()]
    if json:
        print_json({"plugins": entries})
        return
    console = Console()
    if not entries:
        console.print("no plugin is installed; forgetkit plugins new NAME --kind KIND begins one", markup=False)
        return
    keys = ("plugin", "distribution", "version", "module")
    rows = [[*(entry[key] for key in keys), _remark(entry)] for entry in entries]
    console.print(layout.table(console.width, (*keys, "offers" if load else ""), rows))


def _entry(point: entry_points.PluginEntryPoint) -> dict[str, Any]:
    return {
        "plugin": point.plugin,
        "distribution": point.distribution,
        "version": point.version,
        "module": point.module,
        "disabled": point.disabled,
        **({"clash": point.clash} if point.clash else {}),
    }


def _load_entries() -> list[dict[str, Any]]:
    from forgetkit.registry import registry

    components = registry.load()
    reasons = {(broken.distribution, broken.plugin): broken.reason for broken in components.broken}
    return [
        _entry(point)
        | {
            "offers": [
                {"kind": entry.kind, "name": components.label(entry)}
                for entry in components.components
                if (entry.distribution, entry.plugin) == (point.distribution, point.plugin)
            ],
            "left_out": reasons.get((point.distribution, point.plugin)),
        }
        for point in entry_points.plugins()
    ]


def _remark(entry: Mapping[str, Any]) -> str:
    if entry["disabled"]:
        return f"disabled by {entry_points.DISABLE}"
    if reason := entry.get("left_out") or entry.get("clash"):
        return f"left out: {reason}"
    return ", ".join(f"{component['name']} ({component['kind']})" for component in entry.get("offers", ()))


def _show(
    name: Annotated[str, typer.Argument(help="A component, a plugin or a distribution.", metavar="NAME")],
    kind: _Kind = None,
    plugin: options.PluginFiles = None,
    json: options.AsJson = False,
) -> None:
    """Show a component, or all that a plugin offers."""
    from forgetkit.cli import component_info

    components = options.load_components({"plugin": plugin})
    chosen, is_plugin = _matching_components(components, name, kind)
    contents = [component_info.describe_component(entry) for entry in chosen]
    if json:
        print_json({"name": name, "components": contents} if is_plugin else contents[0])
        return
    for content in contents:
        component_info.print_described(content)
        if content is not contents[-1]:
            print()


def _matching_components(components: Registry, name: str, kind: str | None) -> tuple[Sequence[ComponentEntry], bool]:
    """Return the component of that name, or all of a plugin or distribution, and whether it is the latter."""
    from forgetkit.registry import registry

    kinds = registry.KINDS if kind is None else (registry.parse_kind(kind),)
    plain = name.rpartition("/")[2]
    having = [k for k in kinds if any(name in (o.name, f"{o.distribution}/{o.name}") for o in components.named(k))]
    if len(having) > 1:
        raise OptionError(f"'{name}' is a name in several kinds: write --kind {' or --kind '.join(having)}")
    if having:
        return [components.find(having[0], name)], False
    is_plugin = [o for o in components.components if o.kind in kinds and name in (o.plugin, o.distribution)]
    if is_plugin:
        return is_plugin, True
    for broken in components.broken:
        if name in (broken.plugin, broken.distribution):
            raise OptionError(str(broken))
    for point in components.inactive:
        if point.is_one_of({name}):
            raise OptionError(f"plugin '{point.plugin}' of {point.distribution} is disabled by {entry_points.DISABLE}")
    if kind is not None:
        components.find(kinds[0], name)  # an error with similar names, and the plugin that may offer it
    known = {o.name for o in components.components} | {o.distribution for o in components.components}
    raise OptionError(f"no component and no plugin is called '{name}'; {suggest(plain, known)}")


def _check(
    name: Annotated[
        str, typer.Argument(help="A component as NAME or SPEC, a plugin or a distribution.", metavar="NAME")
    ],
    kind: _Kind = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="An option of the component (repeatable).", metavar="KEY=VALUE"),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", help="A promise that is known to be broken (repeatable).", metavar="PROMISE"),
    ] = None,
    plugin: options.PluginFiles = None,
    json: options.AsJson = False,
) -> None:
    """Check a component, or all that a plugin offers, against the promises of its kind.

    Exit status: 0 all are kept, 1 one is broken, 2 a mistake in the command line.
    """
    # A component may print; with --json standard output is for the object alone.
    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
        examined = _examine(options.load_components({"plugin": plugin}), name, kind, option or (), expect or ())
        if not json:
            for one in examined:
                _print_examined(one)
    counts = Counter(promise["status"] for one in examined for promise in one["promises"])
    counts["not checked"] = sum(bool(one["not_checked"]) for one in examined)
    if json:
        print_json({"components": examined, "counts": dict(counts)})
    else:
        broken = [p["promise"] for one in examined for p in one["promises"] if p["status"] == "broken"]
        summary = ", ".join(f"{counts[status]} {status}" for status in (*_STATUSES, "not checked") if counts[status])
        print(f"{summary}; broken: {', '.join(dict.fromkeys(broken))}" if broken else summary)
    if counts["broken"]:
        raise typer.Exit(1)


_STATUSES = ("kept", "broken", "expected", "not applicable")


def _examine(
    components: Registry, name: str, kind: str | None, texts: Iterable[str], expected: Sequence[str]
) -> list[dict[str, Any]]:
    """Check the promises of each component."""
    from forgetkit.registry.spec import parse_spec

    spec = parse_spec(name)
    arguments = {key.replace("-", "_"): value for key, value in options.parse_pairs("--option", texts).items()}
    if twice := arguments.keys() & spec.options.keys():
        raise OptionError(f"the option '{min(twice)}' is given twice, in {name} and by --option: leave one out")
    spec = dataclasses.replace(spec, options={**spec.options, **arguments})
    chosen, is_plugin = _matching_components(components, spec.name, kind)
    if is_plugin and (spec.first is not None or spec.options):
        raise OptionError(f"'{spec.name}' is a plugin: options are given to one of its components")
    found = [
        _examine_one(
            components, entry, dataclasses.replace(spec, name=components.label(entry)), expected, alone=not is_plugin
        )
        for entry in chosen
    ]
    known = {promise["promise"] for one in found for promise in one["promises"]}
    for promise in expected:
        if promise not in known:
            raise OptionError(f"--expect: no promise is called '{promise}'; {suggest(promise, known)}")
    return found


def _examine_one(
    components: Registry, entry: ComponentEntry, spec: Spec, expected: Sequence[str], *, alone: bool
) -> dict[str, Any]:
    """Check one component. Among several, one that needs options is left for a check by itself."""
    from forgetkit import testing
    from forgetkit.registry.spec import options_of

    about: dict[str, Any] = {"kind": entry.kind, "name": spec.name, "spec": spec.name}
    promises = {promise.name for promise in testing.promises(entry.kind)}
    if not promises:
        return about | {"not_checked": f"{entry.kind} make no promises", "promises": []}
    required = [o.name for o in options_of(entry.component) if o.default is dataclasses.MISSING]
    if required and not alone:
        return about | {"not_checked": f"it needs the option '{required[0]}': check it by itself", "promises": []}
    written, component = components.make(entry.kind, spec)
    if sys.stderr.isatty():
        print(f"forgetkit: examining {written} …", file=sys.stderr)
    reasons = {name: "as --expect says" for name in expected if name in promises}
    verdicts = testing.examine(entry.kind, component, expected_failures=reasons)
    return about | {"spec": written, "not_checked": None, "promises": [_verdict(verdict) for verdict in verdicts]}


def _verdict(verdict: Verdict) -> dict[str, str]:
    return {
        "promise": verdict.promise.name,
        "text": verdict.promise.text,
        "status": verdict.status,
        "reason": verdict.reason,
    }


def _print_examined(one: Mapping[str, Any]) -> None:
    console = Console()
    console.print(Text.assemble((one["spec"], "bold"), f" ({one['kind']})"))
    if one["not_checked"]:
        console.print(f"  not checked: {one['not_checked']}", markup=False)
    for (status, reason), group in itertools.groupby(one["promises"], lambda p: (p["status"], p["reason"])):
        promises = list(group)
        if status == "not applicable" and len(promises) > 2:  # all for one reason
            first, last = promises[0]["promise"], promises[-1]["promise"]
            console.print(f"  {status:<14}  {first} to {last}, {len(promises)} promises: {reason}", markup=False)
            continue
        for promise in promises:
            line = f"  {status:<14}  {promise['promise']}: {reason or promise['text']}"
            console.print(Text(line, "bold red" if status == "broken" else ""))


def _new(
    name: Annotated[str, typer.Argument(help="The distribution's name, like forgetkit-mine.", metavar="NAME")],
    kind: Annotated[str, typer.Option("--kind", help="What it offers: importance, reinit, …", metavar="KIND")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the new package.", metavar="DIR")] = Path(),
    json: options.AsJson = False,
) -> None:
    """Write a package with a working component, its tests and its entry point."""
    from forgetkit.registry import registry, scaffold

    kind = registry.parse_kind(kind)
    taken = {entry.name for entry in registry.load(entry_points=False).named(kind)}
    written = scaffold.write_package(name, kind, out, taken)
    if json:
        print_json(
            {
                "directory": str(written.directory),
                "kind": kind,
                "component": written.component,
                "module": written.module,
                "files": [str(file) for file in written.files],
            }
        )
        return
    console = Console()
    for file in written.files:
        console.print(str(written.directory / file), markup=False)
    folder = str(written.directory)
    console.print(f"\nnext: python -m pip install -e {shlex.quote(f'{folder}[dev]')}", markup=False)
    console.print(f"      python -m pytest {shlex.quote(folder)}", markup=False)
    console.print(f"      forgetkit plugins check {written.component} --kind {kind}", markup=False)
