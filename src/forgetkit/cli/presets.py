"""``forgetkit presets``: the protocols and their differences."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer
from rich.text import Text

from forgetkit.config import presets
from forgetkit.display.console import Console, print_json

_AsJson = Annotated[bool, typer.Option("--json", help="Print an object instead of lines.")]


def application() -> typer.Typer:
    """The commands below ``forgetkit presets``."""
    app = typer.Typer(help="The protocols that a run can follow, and their differences.")
    app.callback(invoke_without_command=True)(_without_command)
    app.command("list")(_list)
    app.command("show")(_show)
    return app


def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        _list()


def _list(json: _AsJson = False) -> None:
    """List the presets; the default is marked."""
    summaries = {name: presets.summary(name) for name in presets.NAMES}
    if json:
        print_json({"default": presets.NAMES[0], "presets": summaries})
        return
    page = _Page()
    width = max(map(len, summaries)) + 2
    for name, summary in summaries.items():
        page.say(summary + " (default)" * (name == presets.NAMES[0]), name.ljust(width))


def _show(
    name: Annotated[str, typer.Argument(help="clean, paper, lure-code or alma.", metavar="NAME")],
    against: Annotated[
        str | None, typer.Option("--against", help="Show only the differences to another preset.", metavar="OTHER")
    ] = None,
    json: _AsJson = False,
) -> None:
    """Show what a preset sets and why, or its differences to another."""
    if against is None:
        _show_one(name, json)
    else:
        _show_both(name, against, json)


def _show_one(name: str, json: bool) -> None:
    values, summary = presets.all_values(name), presets.summary(name)
    own = {option: reasons[name] for option, reasons in presets.reasons().items() if name in reasons}
    if json:
        options = [
            {"option": option, "value": values[option], "says": reason.says, "source": reason.source}
            for option, reason in own.items()
        ]
        print_json({"name": name, "summary": summary, "options": options})
        return
    page = _Page()
    page.say(summary)
    for option, reason in own.items():
        page.head(f"{option}: {_shown_value(values[option])}")
        page.say(_reason_text(reason), "  ")


def _show_both(name: str, other: str, json: bool) -> None:
    found = presets.differences(name, other)
    if json:
        content = [
            {
                "option": difference.option,
                name: _side(difference.value, difference.reason),
                other: _side(difference.other_value, difference.other_reason),
            }
            for difference in found
        ]
        print_json({"name": name, "against": other, "differences": content})
        return
    page = _Page()
    page.say(f"{name} | {other}: {len(found) or 'no'} difference{'s' * (len(found) != 1)}")
    width = max(len(name), len(other)) + 4
    for d in found:
        page.head(f"{d.option}: {_shown_value(d.value)} | {_shown_value(d.other_value)}")
        for side, value, reason in ((name, d.value, d.reason), (other, d.other_value, d.other_reason)):
            page.say(_reason_text(reason) if reason else _default_text(d.option, value), f"  {side}".ljust(width))


class _Page:
    """Prints paragraphs that wrap at the width of a screen, under a hanging indent; a pipe gets whole lines."""

    def __init__(self) -> None:
        self._console = Console()

    def head(self, text: str) -> None:
        """Print an option and its value after an empty line."""
        self._console.print()
        self._console.print(Text(text, "bold"))

    def say(self, text: str, lead: str = "") -> None:
        """Print a paragraph that begins with ``lead``."""
        lines = textwrap.wrap(
            text,
            self._console.width,
            initial_indent=lead,
            subsequent_indent=" " * len(lead),
            break_on_hyphens=False,
            break_long_words=False,
        )
        self._console.print(Text("\n".join(lines)))


def _side(value: Any, reason: presets.Reason | None) -> dict[str, Any]:
    return {"value": value, "says": reason and reason.says, "source": reason and reason.source}


def _reason_text(reason: presets.Reason) -> str:
    return f"{reason.says} ({reason.source})"


def _default_text(option: str, value: Any) -> str:
    return "silent; as clean" if value is not None else f"silent; by rule: {presets.rule(option)}"


def _shown_value(value: Any) -> str:
    if value is None:
        return "by rule"
    return f"{value:g}" if isinstance(value, float) else str(value)
