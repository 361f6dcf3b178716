"""``forgetkit show``: what there is, and what each component's options are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forgetkit.cli import completion
from forgetkit.display.console import print_json

if TYPE_CHECKING:
    from forgetkit.registry.registry import Registry

Files = Annotated[
    list[Path] | None, typer.Option("--plugin", help="Look into a plugin that is a single file.", metavar="FILE.py")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print an object instead of tables.")]


def command(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="importance, reinit, replay, datasets, models, …", metavar="[KIND]", autocompletion=completion.kinds
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(help="The name of a component.", metavar="[NAME]", autocompletion=completion.any_component),
    ] = None,
    plugin: Files = None,
    strict: Annotated[bool, typer.Option("--strict-plugins", help="Fail where a plugin is left out.")] = False,
    json: AsJson = False,
) -> None:
    """List the components there are, or one with its options."""
    from forgetkit.cli import component_info
    from forgetkit.registry import registry

    offers = load_registry(plugin, strict=strict)
    kinds = [k for k in registry.KINDS if offers.named(k)] if kind is None else [registry.parse_kind(kind)]
    if name is None:
        entries = component_info.list_components(offers, kinds)
        print_json(entries) if json else component_info.print_listing(entries)
        return
    content = component_info.describe_component(offers.find(kinds[0], name))
    print_json(content) if json else component_info.print_described(content)


def load_registry(files: list[Path] | None, *, strict: bool = False) -> Registry:
    """The registry; a line about each plugin that is left out, or with ``strict`` an error."""
    from forgetkit.registry import registry

    offers = registry.load(files=files or ())
    if strict:
        offers.require_all_loaded()
    for broken in offers.broken:
        print(f"forgetkit: {broken}", file=sys.stderr)
    return offers
