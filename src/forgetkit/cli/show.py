"""``forgetkit show``: what there is, and what each component's options are."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from forgetkit.cli.console import Console, print_json
from forgetkit.errors import OptionError, closest

if TYPE_CHECKING:
    from forgetkit.options import Option


def command(
    kind: Annotated[
        str | None, typer.Argument(help="importance, reinit, replay, datasets, models, …", metavar="[KIND]")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="The name of a component.", metavar="[NAME]")] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option("--plugin", help="Look into a plugin that is a single file.", metavar="FILE.py")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print an object instead of tables.")] = False,
) -> None:
    """List the components there are, or one with its options."""
    from forgetkit import registry
    from forgetkit.options import options_of

    offers = registry.load(files=plugin or ())
    for broken in offers.broken:
        print(f"forgetkit: {broken}", file=sys.stderr)
    kinds = [k for k in registry.KINDS if offers.named(k)] if kind is None else [_kind(kind)]
    if name is None:
        listing = {k: {_shown(o, offers): o.summary for o in offers.named(k)} for k in kinds}
        print_json(listing) if json else _print_listing(listing)
        return
    offer = offers.find(kinds[0], name)
    about = inspect.cleandoc(offer.component.__doc__ or "")
    known = options_of(offer.component)
    described = _taken_apart(about, [option.name for option in known])
    content = {
        "kind": offer.kind,
        "name": offer.name,
        "from": offer.distribution,
        "about": about,
        "formula": described.formula,
        "cost": described.cost,
        "source": described.source,
        "options": [_option(option, described.meanings[option.name]) for option in known],
    }
    print_json(content) if json else _print_component(content, described.rest)


def _print_component(content: Mapping[str, Any], rest: str) -> None:
    console = Console()
    console.print(Text.assemble((content["name"], "bold"), f" ({content['kind']}, from {content['from']})\n"))
    console.print(rest, markup=False)
    if content["formula"]:
        console.print(f"\nFormula: {content['formula']}", markup=False)
    if content["options"]:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        narrow = console.width < 100  # what an option means needs the room most
        for title, width in (("option", None), ("type", 8), ("range", 15), ("default", None), ("meaning", None)):
            table.add_column(title, no_wrap=title == "option", max_width=width if narrow else None)
        for option in content["options"]:
            table.add_row(*(Text(option[key]) for key in ("name", "type", "range", "default", "meaning")))
        console.print(table)
    elif content["cost"] or content["source"]:
        console.print()
    for title in ("cost", "source"):
        if content[title]:
            console.print(f"{title.capitalize()}: {content[title]}", markup=False)


@dataclasses.dataclass(frozen=True)
class _Described:
    """What a docstring says: its named paragraphs, the meaning of each option, and the rest of it."""

    rest: str
    formula: str | None
    cost: str | None
    source: str | None
    meanings: Mapping[str, str]


def _taken_apart(about: str, options: Collection[str]) -> _Described:
    """A docstring by its parts. ``Formula:``, ``Cost:``, ``Source:`` or an option's name begins one, at the start of
    a line; the next, or an empty line, ends it.
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
    found = {key: _joined(lines) for key, lines in parts.items()}
    meanings = {option: found.get(option, "") for option in options}
    return _Described(_flowing(rest), found.get("Formula"), found.get("Cost"), found.get("Source"), meanings)


def _flowing(lines: Iterable[str]) -> str:
    """Paragraphs for a screen: they flow at its width, while lists and tables keep their lines."""
    found: list[str] = []
    for line in lines:
        if found and found[-1] and line and not line.startswith(" ") and not found[-1].startswith(" "):
            found[-1] += f" {line}"
        elif line or (found and found[-1]):  # one empty line is enough
            found.append(line)
    return "\n".join(found).rstrip()


def _joined(lines: Iterable[str]) -> str:
    """One paragraph, but for indented lines that begin with ``choice:``."""
    found: list[str] = []
    for line in lines:
        if found and not re.match(r" +[\w-]+: ", line):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line.strip())
    return "\n".join(found).strip()


def _kind(text: str) -> str:
    from forgetkit.registry import KINDS

    matches = [k for k in KINDS if text in (k, k.removesuffix("s"))]
    if not matches:
        raise OptionError(f"no kind of component is called '{text}'; {closest(text, KINDS)}")
    return matches[0]


def _shown(offer: Any, offers: Any) -> str:
    alike = [o for o in offers.named(offer.kind) if o.name == offer.name]
    return offer.name if len(alike) == 1 or offer.distribution == "forgetkit" else f"{offer.distribution}/{offer.name}"


def _print_listing(listing: dict[str, dict[str, str]]) -> None:
    console = Console()
    for kind, entries in listing.items():
        if not entries:
            console.print(f"{kind}: none yet; a plugin may bring some", markup=False)
            continue
        table = Table(title=kind, box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for name, summary in entries.items():
            table.add_row(Text(name), Text(summary))
        console.print(table)


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
    """An annotation for people: a type, and the range of its values. A text among the notes of ``Annotated`` is that
    range in words.
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
    """A default as a SPEC would say it."""
    if value is dataclasses.MISSING:
        return "required"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
