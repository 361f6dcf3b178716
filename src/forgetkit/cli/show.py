"""``forgetkit show``: the components and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from forgetkit.cli import completion, options
from forgetkit.display.console import print_json


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
    plugin: options.PluginFiles = None,
    strict: options.StrictPlugins = False,
    json: options.AsJson = False,
) -> None:
    """List the components, or show one with its options."""
    from forgetkit.cli import component_info
    from forgetkit.registry import registry

    components = options.load_components({"plugin": plugin, "strict_plugins": strict})
    kinds = [k for k in registry.KINDS if components.named(k)] if kind is None else [registry.parse_kind(kind)]
    if name is None:
        entries = component_info.list_components(components, kinds)
        print_json(entries) if json else component_info.print_listing(entries)
        return
    content = component_info.describe_component(components.find(kinds[0], name))
    print_json(content) if json else component_info.print_described(content)
