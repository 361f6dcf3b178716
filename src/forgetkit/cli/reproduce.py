"""``forgetkit reproduce``: the paper's tables and figures, printed beside measured."""

from __future__ import annotations

import contextlib
import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetkit.cli import options
from forgetkit.cli.ablate import CARRYING_OUT, conclude_ablation
from forgetkit.cli.streams import announce
from forgetkit.display.console import Console, print_json, print_text
from forgetkit.errors import OptionError, suggest

if TYPE_CHECKING:
    from forgetkit.ablation.plan import AblationPlan
    from forgetkit.ablation.runner import ExecutionOptions
    from forgetkit.display.cell_display import CellDisplay
    from forgetkit.paper.render import ComparisonSheet
    from forgetkit.paper.scaled_table import ScaledTable
    from forgetkit.results.outcome import Outcomes

OUT = "reproductions"
_SCREEN = "rich"

_OWN: options.Special = {
    "scale": (str | None, options.special_option("--scale", "smoke, cpu or full (default: smoke)", "SCALE")),
    "part": (
        list[str] | None,
        options.special_option("--part", "a part of the table instead of all, or the scale's (repeatable)", "NAME"),
    ),
    "data": (
        list[str] | None,
        options.special_option("--data", "where a data set of the paper comes from (repeatable)", "NAME=SPEC"),
    ),
    "seeds": (
        str | None,
        options.special_option("--seeds", "the seeds of each row, like 0-4 (default: the scale's)", "A-B"),
    ),
    "set": (
        list[str] | None,
        options.special_option("--set", "an option of all runs, like device=cuda (repeatable)", "KEY=VALUE"),
    ),
    "out": (Path | None, options.special_option("--out", f"folder of the runs (default: {OUT}/NAME-SCALE)", "DIR")),
    "format": (str | None, options.special_option("--format", "rich, markdown, latex, csv or json", "FORMAT")),
    **CARRYING_OUT,
}


def command(*, with_options: bool = True) -> Callable[..., None]:
    """The function that typer makes the command of."""
    return options.command(_reproduce, _signature() if with_options else None)


def _signature() -> inspect.Signature:
    from forgetkit.config import RunConfig

    name = options.argument("name", str | None, "table1 to table10, figure2 to figure11.", "[NAME]")
    return options.signature(_OWN, without=RunConfig.model_fields.keys(), first=[name])


def _reproduce(**given: Any) -> None:
    """Run a table or figure of the paper, and print it beside what was measured.

    Without a name: what there is. What is there of the runs and of what they were asked is kept: the same command
    again does the rest.

    Exit status: 0 done, 1 a run failed, 2 a mistake in the command line, 130 interrupted.
    """
    form = _format(given["format"], as_json=given["json"])
    given = {**given, "json": form == "json"}
    own = form not in (_SCREEN, "json")
    if given["name"] is None:
        _require_alone(given, form if own else None)
        _list(as_json=given["json"])
        return
    if own and given["dry_run"]:
        raise OptionError(f"--dry-run has no table to print as {form}: leave out --format {form}, or use --format json")
    announce("reproduce", quiet=given["quiet"], as_json=given["json"] or own)
    from forgetkit.paper import render
    from forgetkit.paper.comparison import compare_with_paper

    setting = _setting(given)
    given["keep"] = _models_to_keep(setting, given["keep"])
    texts: list[str] = []
    carried_out: list[tuple[AblationPlan, ExecutionOptions]] = []

    def plan(execution: ExecutionOptions) -> AblationPlan:
        from forgetkit.ablation.plan import AblationPlan

        name = f"{setting.table.name}-{setting.scale.name}"
        ablation = AblationPlan.of(setting.grid(), given["out"] or Path(OUT) / name, execution.offers, stem=name)
        carried_out.append((ablation, execution))
        return ablation

    def show(view: CellDisplay, outcomes: Outcomes, special: Mapping[str, Any]) -> dict[str, Any]:
        comparison = compare_with_paper(setting, _with_answers(setting, *carried_out[0], view, outcomes))
        if own:
            texts.append(render.render_comparison(comparison, form))
        elif view.shows and form == _SCREEN:
            _print(view.console, comparison)
        return render.content(comparison)

    try:
        # Standard output belongs to the text alone.
        with contextlib.redirect_stdout(sys.stderr) if own else contextlib.nullcontext():
            conclude_ablation(given, plan, show)
    finally:
        for text in texts:
            print_text(text)


def _models_to_keep(setting: ScaledTable, chosen: str | None) -> str | None:
    """Which models runs keep: as many as are asked about; ``OptionError`` where fewer were chosen."""
    order = ("none", "last", "all")
    if not setting.queries or chosen not in (None, *order):
        return chosen
    if chosen is not None and order.index(chosen) < order.index(setting.keep):
        raise OptionError(
            f"--keep {chosen}: {setting.table.name} asks the runs about models that they would not keep: "
            f"leave it out, or use --keep {setting.keep}"
        )
    return chosen or (setting.keep if setting.keep == "all" else None)


def _with_answers(
    setting: ScaledTable, ablation: AblationPlan, execution: ExecutionOptions, view: CellDisplay, outcomes: Outcomes
) -> Outcomes:
    """The runs with their answers to what they had not been asked before."""
    if not setting.queries:
        return outcomes
    from forgetkit.analysis.run_evidence import AnalysisEnv
    from forgetkit.config import machine
    from forgetkit.paper.run_analyses import run_analyses

    elsewhere = {key: value for key, value in setting.changes.items() if key == "device"}
    env = AnalysisEnv(execution.offers, machine.cache_folder(), elsewhere)
    for one in run_analyses(setting, ablation.pool, ablation.named(), outcomes, env):
        if one.became == "answered":
            view.say(f"{one.run}: {one.question.label} in {one.seconds:.1f} s")
        elif one.reason:
            view.warn(f"{one.run}: {one.question.label}: {one.reason}")
    view.say(f"pictures: forgetkit report {shlex.quote(str(ablation.pool.path))}")
    return ablation.outcomes(outcomes.command)


def _format(asked: str | None, *, as_json: bool) -> str:
    if asked is None:
        return "json" if as_json else _SCREEN
    from forgetkit.paper.render import FORMATS

    known = (_SCREEN, *FORMATS)
    if asked not in known:
        raise OptionError(f"there is no format '{asked}'; {suggest(asked, known)}")
    if as_json and asked != "json":
        raise OptionError(f"--json and --format {asked} contradict each other: leave one out")
    return asked


def _require_alone(given: Mapping[str, Any], form: str | None) -> None:
    """``OptionError`` where the list of tables is asked for, and options that mean nothing to it."""
    beside = {option: given[option] for option in _OWN if option not in ("format", "json")} | {"format": form}
    for option, value in beside.items():
        if value is not None and value is not False and value != []:
            flag = f"--{option.replace('_', '-')}"
            raise OptionError(f"{flag} is for a table and none is named: name one that forgetkit reproduce lists")


def _setting(given: Mapping[str, Any]) -> ScaledTable:
    from forgetkit import config
    from forgetkit.ablation.grid import parse_seeds
    from forgetkit.paper.scaled_table import scale_table

    return scale_table(
        given["name"],
        given["scale"] or "smoke",
        given["part"] or (),
        _pairs(given["data"] or ()),
        None if given["seeds"] is None else parse_seeds(given["seeds"]),
        config.parse_assignments(given["set"] or []),
    )


def _pairs(texts: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not equals or not spec.strip():
            raise OptionError(f"--data {text}: write NAME=SPEC, like CIFAR10=folder:path=photos,size=32")
        if name in found:
            raise OptionError(f"--data {name} is given twice: leave one out")
        found[name.strip()] = spec.strip()
    return found


def _list(*, as_json: bool) -> None:
    from forgetkit.display import layout
    from forgetkit.paper import reference

    titles = reference.table_titles()
    if as_json:
        print_json({"tables": titles, "scales": list(reference.SCALES)})
        return
    console = Console()
    console.print(layout.listing(console.width, titles))
    console.print("forgetkit reproduce NAME --scale smoke|cpu|full", markup=False)


def _width(sheet: ComparisonSheet) -> int:
    columns = zip(sheet.heads, *sheet.rows, strict=True)
    return sum(max(map(len, column)) + 2 for column in columns)


def _print(console: Console, comparison: Any) -> None:
    from rich.text import Text

    from forgetkit.display import layout
    from forgetkit.paper import render

    console.print(Text(comparison.setting.table.title, "bold"))
    for line in render.caption(comparison):
        console.print(Text(line))
    for sheet in render.sheets(comparison):
        # Where all numbers have no room beside each other, each has a table of its own: no figure is folded.
        for part in [sheet] if _width(sheet) <= console.width else sheet.apart():
            figures = range(sheet.labels, len(part.heads))
            console.print(layout.table(console.width, part.heads, part.rows, right=figures, title=part.title))
            console.print()
    for line in render.caveats(comparison):
        console.print(Text(f"- {line}", "dim"))
