"""The facts about a component, as an object and on a screen."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from forgetkit.display import layout
from forgetkit.display.console import Console

if TYPE_CHECKING:
    from forgetkit.registry.registry import ComponentEntry, Registry
    from forgetkit.registry.spec import Option


def describe_component(entry: ComponentEntry) -> dict[str, Any]:
    """Return the facts about a component or a command."""
    origin = {"kind": entry.kind, "name": entry.name, "from": entry.distribution, "version": entry.version}
    if entry.kind == "commands":
        return origin | _command(entry.component)
    from forgetkit.registry.spec import options_of

    about = _docstring(entry.component)
    known = options_of(entry.component)
    parts = _parse_docstring(about, [option.name for option in known])
    return origin | {
        "about": about,
        "formula": parts.formula,
        "cost": parts.cost,
        "source": parts.source,
        "needs_data": _needs_data(entry),
        "acts": _acts(entry.component),
        "touches": _writes(entry),
        "options": [_option(option, parts.meanings[option.name]) for option in known],
    }


def list_components(components: Registry, kinds: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return names and summaries by kind."""
    return {
        kind: {components.label(entry): component_summary(entry) for entry in components.named(kind)} for kind in kinds
    }


def component_summary(entry: ComponentEntry) -> str:
    """Summarize a component or a command in one line."""
    if entry.kind == "commands":
        return str(_command(entry.component)["about"]).partition("\n")[0]
    return entry.summary


def print_listing(entries: Mapping[str, Mapping[str, str]]) -> None:
    """Print a table for each kind."""
    console = Console()
    for kind, summaries in entries.items():
        if not summaries:
            console.print(f"{kind}: none yet; a plugin may bring some", markup=False)
            continue
        console.print(Text(kind, "bold"))
        console.print(layout.listing(console.width, summaries))
        console.print()


def print_described(content: Mapping[str, Any]) -> None:
    """Print the facts about a component."""
    console = Console()
    origin = content["from"] if content["from"] == "forgetkit" else f"{content['from']} {content['version']}"
    console.print(Text.assemble((content["name"], "bold"), f" ({content['kind']}, from {origin})\n"))
    if content["kind"] == "commands":
        console.print(content["about"], markup=False)
        for name, line in content["commands"].items():
            console.print(f"  {name}  {line}", markup=False)
        console.print(f"\nIts options: forgetkit {content['name']} --help", markup=False)
        return
    console.print(
        _parse_docstring(content["about"], [o["name"].replace("-", "_") for o in content["options"]]).rest, markup=False
    )
    if content["formula"]:
        console.print(f"\nFormula: {content['formula']}", markup=False)
    if content["options"]:
        console.print()
        keys = ("name", "type", "range", "default", "meaning")
        rows = [[option[key] for key in keys] for option in content["options"]]
        console.print(layout.table(console.width, ("option", *keys[1:]), rows))
        console.print()
    else:
        console.print()
    for title, text in _facts(content):
        console.print(f"{title}: {text}", markup=False)


def _facts(content: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield the lines below the options."""
    if content["needs_data"] is not None:
        yield "Data", "looks at samples." if content["needs_data"] else "looks at no samples."
    if content["acts"] is not None:
        yield "Acts", f"{'; '.join(f'{name}: {when}' for name, when in content['acts'].items()) or 'never'}."
    if content["kind"] in ("reinit", "interventions"):
        touches = content["touches"]
        yield "Touches", "it does not say." if touches is None else f"{', '.join(touches) or 'nothing'}."
    for title in ("cost", "source"):
        if content[title]:
            yield title.capitalize(), content[title]


def _command(component: Any) -> dict[str, Any]:
    if not isinstance(component, typer.Typer):
        return {"about": "It is no typer.Typer, and left out.", "commands": {}}
    command = typer.main.get_command(component)
    below = getattr(command, "commands", {})
    return {
        "about": inspect.cleandoc(command.help or ""),
        "commands": {name: one.get_short_help_str(200) for name, one in below.items()},
    }


def _needs_data(entry: ComponentEntry) -> bool | None:
    """Return whether a component reads samples: a criterion by default, a reset method only if it says so."""
    if entry.kind not in ("importance", "reinit"):
        return None
    return bool(_class_attribute(entry.component, "needs_data", entry.kind == "importance"))


def _acts(component: type) -> dict[str, str] | None:
    """Return the methods of an intervention that a class overrides, and when each is called."""
    from forgetkit.contracts import Intervention

    if not issubclass(component, Intervention):
        return None
    moments = {name: method for name, method in vars(Intervention).items() if inspect.isfunction(method)}
    return {
        name: (inspect.getdoc(method) or "").partition("\n")[0].rstrip(".").lower()
        for name, method in moments.items()
        if not name.startswith("_") and getattr(component, name) is not method
    }


def _writes(entry: ComponentEntry) -> list[str] | None:
    from forgetkit.contracts import Writes

    declared = _class_attribute(entry.component, "touches", None)
    return None if declared is None else [touch for touch in typing.get_args(Writes) if touch in declared]


def _class_attribute(component: type, name: str, otherwise: Any) -> Any:
    """Return a class attribute; a property depends on the options and is read with the default ones."""
    value = inspect.getattr_static(component, name, otherwise)
    if not isinstance(value, property):
        return value
    try:
        return getattr(component(), name)
    except TypeError:  # it needs options
        return otherwise


def _docstring(component: type) -> str:
    """Return the docstring; nothing if it is the signature that dataclass writes."""
    text = inspect.cleandoc(component.__doc__ or "")
    return "" if text.startswith(f"{component.__name__}(") else text


@dataclasses.dataclass(frozen=True)
class _ParsedDocstring:
    """The named paragraphs of a docstring, the meaning of each option, and the rest."""

    rest: str
    formula: str | None
    cost: str | None
    source: str | None
    meanings: Mapping[str, str]


def _parse_docstring(about: str, options: Collection[str]) -> _ParsedDocstring:
    """Split a docstring into its parts.

    ``Formula:``, ``Cost:``, ``Source:`` or an option's name at the start of a line begins a part; the next one or an
    empty line ends it.
    """
    rest: list[str] = []
    parts: dict[str, list[str]] = {}
    lines = rest
    for line in about.replace("``", "").splitlines():
        word, _, text = line.partition(":")
        key = word.replace("-", "_").replace("Sources", "Source")
        if text[:1] in ("", " ") and key in ("Formula", "Cost", "Source", *options):
            lines = parts.setdefault(key, [])
            lines.append(text)
        elif line or lines is rest:
            lines.append(line)
        else:
            lines = rest
    found = {key: _join_lines(lines) for key, lines in parts.items()}
    meanings = {option: found.get(option, "") for option in options}
    return _ParsedDocstring(_reflow(rest), found.get("Formula"), found.get("Cost"), found.get("Source"), meanings)


def _reflow(lines: Iterable[str]) -> str:
    """Join the lines of paragraphs for a screen; lists and tables keep theirs."""
    found: list[str] = []
    for line in lines:
        if found and found[-1] and line and not line.startswith(" ") and not found[-1].startswith(" "):
            found[-1] += f" {line}"
        elif line or (found and found[-1]):  # one empty line is enough
            found.append(line)
    return "\n".join(found).rstrip()


def _join_lines(lines: Iterable[str]) -> str:
    """Join lines to one paragraph, except for indented ones that begin with ``choice:``."""
    found: list[str] = []
    for line in lines:
        if found and not re.match(r" +[\w-]+: ", line):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line.strip())
    return "\n".join(found).strip()


def _option(option: Option, meaning: str) -> dict[str, str]:
    kind, values = _type(option.type)
    return {
        "name": option.name.replace("_", "-"),
        "type": kind,
        "range": values,
        "default": _default(option.default),
        "meaning": meaning,
    }


def _type(annotation: Any) -> tuple[str, str]:
    """Describe an annotation to people: a type, and the range of its values.

    A text among the metadata of ``Annotated`` is that range in words.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        kind, values = _type(parts[0])
        notes = [note for outer in parts[1:] for note in getattr(outer, "metadata", [outer])]
        words = [note for note in notes if isinstance(note, str)]
        return kind, ", ".join(words or filter(None, [values, *map(_bound, notes)]))
    if origin is typing.Literal:
        return " | ".join(dict.fromkeys(type(part).__name__ for part in parts)), " | ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        kinds, ranges = zip(*map(_type, parts), strict=True)
        return " | ".join(dict.fromkeys(kinds)), " | ".join(filter(None, ranges))
    if annotation is types.NoneType:
        return "none", ""
    return (annotation.__name__ if origin is None and isinstance(annotation, type) else str(annotation)), ""


def _bound(note: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(
        f"{sign} {getattr(note, key)}" for key, sign in signs.items() if getattr(note, key, None) is not None
    )


def _default(value: Any) -> str:
    """Return a default as in a SPEC."""
    if value is dataclasses.MISSING:
        return "required"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
