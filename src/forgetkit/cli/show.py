"""``forgetkit show``: what there is, and what each component's options are."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from forgetkit.cli.console import Console, print_json
from forgetkit.errors import OptionError, closest


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

    offers = registry.load(files=plugin or ())
    for broken in offers.broken:
        print(f"forgetkit: {broken}", file=sys.stderr)
    kinds = [k for k in registry.KINDS if offers.named(k)] if kind is None else [_kind(kind)]
    if name is None:
        listing = {k: {_shown(o, offers): o.summary for o in offers.named(k)} for k in kinds}
        print_json(listing) if json else _print_listing(listing)
        return
    offer = offers.find(kinds[0], name)
    options = _options(offer.component)
    about = inspect.cleandoc(offer.component.__doc__ or "")
    if json:
        content = {
            "kind": offer.kind,
            "name": offer.name,
            "from": offer.distribution,
            "about": about,
            "options": options,
        }
        print_json(content)
        return
    console = Console()
    console.print(Text.assemble((offer.name, "bold"), f" ({offer.kind}, from {offer.distribution})\n"))
    console.print(_flowing(about), markup=False)
    if options:
        table = Table(box=box.SIMPLE_HEAD)
        for title in ("option", "type", "range", "default"):
            table.add_column(title)
        for option in options:
            table.add_row(*(Text(option[title]) for title in ("name", "type", "range", "default")))
        console.print(table)


def _flowing(about: str) -> str:
    """A docstring for a screen: paragraphs flow at its width, lists and tables keep their lines."""
    lines: list[str] = []
    for line in about.replace("``", "").splitlines():
        joins = lines and lines[-1] and line and not line.startswith(" ") and not lines[-1].startswith(" ")
        if joins and not re.match(r"[a-z_]+: ", line):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)


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


def _options(component: type) -> list[dict[str, str]]:
    from forgetkit.options import options_of

    found = []
    for option in options_of(component):
        kind, bounds = option.type, ""
        if typing.get_origin(kind) is Annotated:
            kind, *notes = typing.get_args(kind)
            bounds = ", ".join(_bound(note) for outer in notes for note in getattr(outer, "metadata", [outer]))
        if typing.get_origin(kind) is typing.Literal:
            bounds, kind = " | ".join(map(str, typing.get_args(kind))), str
        default = "required" if option.default is dataclasses.MISSING else str(option.default)
        name = option.name.replace("_", "-")
        found.append({"name": name, "type": getattr(kind, "__name__", str(kind)), "range": bounds, "default": default})
    return found


def _bound(note: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(
        f"{sign} {getattr(note, key)}" for key, sign in signs.items() if getattr(note, key, None) is not None
    )
