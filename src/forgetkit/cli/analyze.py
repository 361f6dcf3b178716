"""``forgetkit analyze``."""

from __future__ import annotations

import contextlib
import inspect
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forgetkit.cli import completion, options
from forgetkit.cli.streams import announce
from forgetkit.display.console import Console, print_error, print_json
from forgetkit.errors import OptionError, RecordError, RunDirectoryError

if TYPE_CHECKING:
    from forgetkit.analysis.questions import Question
    from forgetkit.display.analysis_display import AnalysisDisplay
    from forgetkit.registry.registry import Registry

OWN: options.Special = {
    "all": options.run_option(bool, "--all", "run every analysis, with its default options"),
    "mega_batch": options.run_option(
        int | None, "--mega-batch", "analyze the model after that mega-batch (default: the last)", "N"
    ),
    "seed": options.run_option(int | None, "--seed", "the seed of the analyses (default: 0)", "N"),
    "label": options.run_option(
        str | None, "--as", "store the answer under another name than that of the analysis", "LABEL"
    ),
    "again": options.run_option(bool, "--again", "run analyses again whose answers are stored"),
    "grid": options.run_option(str | None, "--grid", "which grid, if the folder holds several", "NAME"),
    "dataset": options.run_option(str | None, "--dataset", "where the data of the runs is, if it was moved", "SPEC"),
    "model": options.run_option(str | None, "--model", "the network of the runs, if it is code from outside", "SPEC"),
    "device": options.run_option(str | None, "--device", "another device than that of the runs", "DEVICE"),
    "threads": options.run_option(
        int | None, "--threads", "threads of torch on the CPU (default: as many as each run had)", "N", least=1
    ),
    "export_masks": options.run_option(
        Path | None, "--export-masks", "write the masks of a run as arrays: N/PARAMETER, true: reset", "FILE.npz"
    ),
    "no_report": options.run_option(bool, "--no-report", "write neither report.html nor pictures"),
    "list": options.run_option(bool, "--list", "list the analyses"),
    "json": options.run_option(bool, "--json", "print the answers as one JSON object; all else goes to standard error"),
    "quiet": options.QUIET,
    **options.PLUGINS,
}


def command(*, with_options: bool = True) -> Callable[..., None]:
    """Return the function of the command."""
    return options.command(_analyze, _signature() if with_options else None)


def _signature() -> inspect.Signature:
    from forgetkit.config import RunConfig

    folder = options.argument("folder", Path | None, "A run's directory, or the folder of an ablation.", "[DIR]")
    names = options.argument(
        "names",
        list[str] | None,
        "Analyses, SPECs like calibration:bins=15.",
        "[NAME]...",
        completion.for_components("analyses"),
    )
    return options.signature(OWN, without=RunConfig.model_fields.keys(), first=[folder, names])


def _analyze(**arguments: Any) -> None:
    """Analyze finished runs: robustness, calibration, flatness, churn and more.

    Answers are stored as analyses/NAME.json in the directory of each run, with pictures; they are columns of
    forgetkit table and sections of the report. A stored answer is not computed again.

    Exit status: 0 done, 1 an analysis failed, 2 a mistake in the command line or a file, 130 interrupted.
    """
    announce("analyze", quiet=arguments["quiet"] or arguments["list"], as_json=arguments["json"])
    with contextlib.redirect_stdout(sys.stderr) if arguments["json"] else contextlib.nullcontext():
        answer, status = _analyze_or_export(arguments)
    if arguments["json"]:
        print_json(answer)
    if status:
        raise typer.Exit(status)


def _analyze_or_export(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    from forgetkit.display.analysis_display import choose_analysis_display

    view = choose_analysis_display(quiet=arguments["quiet"], as_json=arguments["json"])
    components = options.load_components(arguments, view.warn)
    if arguments["list"]:
        return _list(arguments, components), 0
    folder = arguments["folder"]
    if folder is None:
        raise OptionError("name the directory of a run or the folder of an ablation: forgetkit analyze DIR --all")
    if arguments["export_masks"] is not None:
        return _export(folder, arguments), 0
    questions = _questions(arguments, components)
    try:
        return _ask(folder, questions, arguments, components, view)
    except (KeyboardInterrupt, RecordError) as error:  # finished answers are stored
        if isinstance(error, KeyboardInterrupt):
            view.warn("interrupted")
        rest = [word for word in sys.argv[1:] if word != "--again"]  # answers of this command are new enough
        print_error(f"to go on: {shlex.join(['forgetkit', *rest])}")
        raise


def _ask(
    path: Path, questions: Sequence[Question], arguments: Mapping[str, Any], components: Registry, view: AnalysisDisplay
) -> tuple[dict[str, Any], int]:
    """Return what ``--json`` prints, and the exit status: 2 if an analysis that was named has no answer."""
    from forgetkit import config
    from forgetkit.analysis.run_evidence import AnalysisEnv
    from forgetkit.config import machine
    from forgetkit.display.run_display import choose_run_display
    from forgetkit.results.folder import ResultFolder
    from forgetkit.results.folder_analysis import analyze_folder

    folder = ResultFolder.open(path, arguments["grid"], "analyze takes that of a run or of an ablation")
    overrides = {key: arguments[key] for key in config.OVERRIDABLE if arguments[key] is not None}
    loading = choose_run_display(quiet=True, as_json=arguments["json"])
    env = AnalysisEnv(components, machine.cache_folder(), overrides, (loading,), arguments["threads"])
    found = analyze_folder(folder, questions, env, view, again=arguments["again"], report=not arguments["no_report"])
    view.show(found.answers, None if folder.cells is None else found.outcomes)
    if found.report is not None:
        view.say(f"report: {found.report}")
    status = found.failure_status()
    if not status and not arguments["all"]:
        for label, reason in found.unanswered().items():
            status = 2
            view.warn_unanswered(label, reason)
    return found.content(), status


def _questions(arguments: Mapping[str, Any], components: Registry) -> list[Question]:
    """Return the questions that are named, and with ``--all`` one for every other analysis."""
    from forgetkit.analysis.questions import Question, require_distinct_labels
    from forgetkit.contracts import MOST_THREADS

    names, seed, mega_batch = arguments["names"] or [], arguments["seed"] or 0, arguments["mega_batch"]
    if not names and not arguments["all"]:
        raise OptionError("name an analysis, or run all of them by --all; forgetkit analyze --list lists them")
    if arguments["label"] is not None and (arguments["all"] or len(names) != 1):
        raise OptionError(f"--as {arguments['label']} is the name of one answer: name one analysis")
    if seed < 0:
        raise OptionError(f"--seed {seed}: a seed is 0 or more")
    if (threads := arguments["threads"]) is not None and threads > MOST_THREADS:
        raise OptionError(f"--threads {threads}: at most {MOST_THREADS}")
    names = list(dict.fromkeys(names))
    questions = [
        Question.of(components, name, label=arguments["label"], seed=seed, mega_batch=mega_batch) for name in names
    ]
    if arguments["all"]:
        classes = {type(question.analysis) for question in questions}
        for entry in components.named("analyses"):
            if entry.component not in classes:
                questions.append(Question.of(components, components.label(entry), seed=seed, mega_batch=mega_batch))
    require_distinct_labels(questions)
    return questions


def _list(arguments: Mapping[str, Any], components: Registry) -> dict[str, Any]:
    """List the analyses."""
    for option in ("folder", "names", "all"):
        if arguments[option]:
            raise OptionError("--list lists the analyses and runs none: leave the rest out")
    from forgetkit.display import layout

    entries = {components.label(entry): entry.summary for entry in components.named("analyses")}
    if not arguments["json"]:
        console = Console()
        console.print(layout.listing(console.width, entries))
        console.print("forgetkit show analyses NAME has the options of one", markup=False)
    return {"analyses": entries}


def _export(folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Write the masks of a run for other programs."""
    from forgetkit import config
    from forgetkit.analysis.masks import export_masks
    from forgetkit.results.report import single_run

    for option in ("names", "all", "mega_batch", "seed", "label", "again", "grid", *config.OVERRIDABLE):
        if arguments[option]:
            word = {"names": "the analyses", "label": "--as"}.get(option, f"--{option.replace('_', '-')}")
            raise OptionError(f"--export-masks writes all masks of a run and runs no analysis: leave out {word}")
    if not single_run.is_run(folder):
        raise RunDirectoryError(f"{folder} is not the directory of a run, which --export-masks takes")
    written = export_masks(folder, arguments["export_masks"])
    if not arguments["json"] and not arguments["quiet"]:
        Console().print(f"{arguments['export_masks']}: {written} arrays", markup=False)
    return {"masks": str(arguments["export_masks"]), "arrays": written}
