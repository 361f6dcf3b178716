"""The options of commands that print a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from forgetkit.errors import OptionError, suggest

if TYPE_CHECKING:
    from forgetkit.results.outcome import Outcomes
    from forgetkit.results.table import Table

SCREEN = "rich"
"""The format for a terminal."""

Grid = Annotated[str | None, typer.Option("--grid", help="Which grid, if the folder holds several.", metavar="NAME")]
Columns = Annotated[
    str | None,
    typer.Option("--columns", help="Numbers of a result; NAME:higher says which is better.", metavar="NAME,NAME"),
]
Order = Annotated[
    str | None, typer.Option("--order", help="The column that rows are sorted by, best first.", metavar="COLUMN")
]
Baseline = Annotated[
    str | None, typer.Option("--baseline", help="The arm that others are compared with.", metavar="AXIS=VALUE")
]


def make_requested_table(outcomes: Outcomes, columns: str | None, order: str | None, baseline: str | None) -> Table:
    """Make a table by the words of a command line; None leaves columns, order or baseline to the grid."""
    from forgetkit.results.columns import key_of, parse_columns
    from forgetkit.results.table import DEFAULT, make_table

    chosen = DEFAULT if columns is None else parse_columns(columns, outcomes)
    return make_table(outcomes, chosen, _arm(baseline, outcomes), None if order is None else key_of(order))


def _arm(text: str | None, outcomes: Outcomes) -> Mapping[str, str] | None:
    from forgetkit.results.arm import find_baseline, parse_arm

    if text is None:
        return None
    arms = outcomes.arms()
    axes = {axis: list(dict.fromkeys(arm[axis] for arm in arms)) for axis in outcomes.axes}
    return find_baseline(arms, parse_arm("--baseline", text, axes))


def choose_format(name: str | None, formats: Collection[str], *, as_json: bool) -> str:
    """Return the format that ``--format`` and ``--json`` name: ``SCREEN`` or one of ``formats``."""
    known = (SCREEN, *formats)
    if name is not None and name not in known:
        raise OptionError(f"there is no format '{name}'; {suggest(name, known)}")
    if as_json and name not in (None, "json"):
        raise OptionError(f"--json and --format {name} contradict each other: leave one out")
    return "json" if as_json else name or SCREEN
