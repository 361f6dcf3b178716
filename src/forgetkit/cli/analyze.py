"""``forgetkit analyze``: questions to finished runs."""

from __future__ import annotations

import contextlib
import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forgetkit.cli import completion, options
from forgetkit.cli.streams import announce
from forgetkit.display.console import Console, print_error, print_json
from forgetkit.errors import OptionError, RecordError, RunDirectoryError

if TYPE_CHECKING:
    from forgetkit.analysis.questions import Question
    from forgetkit.analysis.run_evidence import AnalysisEnv
    from forgetkit.display.analysis_display import AnalysisDisplay
    from forgetkit.registry.registry import Registry
    from forgetkit.results.cell_store import CellStore
    from forgetkit.results.outcome import Outcomes
    from forgetkit.results.questions import AnalysisOutcome, RunRef

OWN: options.Special = {
    "all": (bool, options.special_option("--all", "ask every analysis there is, with its usual options")),
    "mega_batch": (
        int | None,
        options.special_option("--mega-batch", "ask about the model after that mega-batch (default: the last)", "N"),
    ),
    "seed": (int | None, options.special_option("--seed", "the seed of what analyses draw (default: 0)", "N")),
    "label": (
        str | None,
        options.special_option("--as", "keep the answer under another name than the analysis has", "LABEL"),
    ),
    "again": (bool, options.special_option("--again", "ask again where the answer is there already")),
    "grid": (str | None, options.special_option("--grid", "which grid, where the folder holds several", "NAME")),
    "dataset": (
        str | None,
        options.special_option("--dataset", "where the data of the runs is by now, if it was moved", "SPEC"),
    ),
    "model": (
        str | None,
        options.special_option("--model", "the network again, where it is code from outside", "SPEC"),
    ),
    "device": (str | None, options.special_option("--device", "another device than that of the runs", "DEVICE")),
    "threads": (
        int | None,
        options.special_option(
            "--threads", "threads of torch on the CPU (default: as many as each run had)", "N", least=1
        ),
    ),
    "export_masks": (
        Path | None,
        options.special_option(
            "--export-masks", "write what a run forgot as arrays: N/PARAMETER, true: reset", "FILE.npz"
        ),
    ),
    "no_report": (bool, options.special_option("--no-report", "write neither report.html nor pictures")),
    "list": (bool, options.special_option("--list", "list the analyses there are")),
    "json": (
        bool,
        options.special_option("--json", "print the answers as one JSON object; all else goes to standard error"),
    ),
    "quiet": options.QUIET,
    **options.PLUGINS,
}


def command(*, with_options: bool = True) -> Callable[..., None]:
    """The function that typer makes the command of."""
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


def _analyze(**given: Any) -> None:
    """Ask finished runs what forgetting did to the network: robustness, calibration, flatness, churn and more.

    Answers are kept as analyses/NAME.json in the directory of each run, with pictures; they are columns of
    forgetkit table and sections of the report. What is there already is not asked again.

    Exit status: 0 done, 1 an analysis failed, 2 a mistake in the command line or a file, 130 interrupted.
    """
    announce("analyze", quiet=given["quiet"] or given["list"], as_json=given["json"])
    with contextlib.redirect_stdout(sys.stderr) if given["json"] else contextlib.nullcontext():
        answer, status = _analyze_or_export(given)
    if given["json"]:
        print_json(answer)
    if status:
        raise typer.Exit(status)


def _analyze_or_export(given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    from forgetkit.display.analysis_display import choose_analysis_display

    view = choose_analysis_display(quiet=given["quiet"], as_json=given["json"])
    offers = options.load_components(given, view.warn)
    if given["list"]:
        return _list(given, offers), 0
    folder = given["folder"]
    if folder is None:
        raise OptionError("name the directory of a run or the folder of an ablation: forgetkit analyze DIR --all")
    if given["export_masks"] is not None:
        return _export(folder, given), 0
    questions = _questions(given, offers)
    try:
        return _AnalysisSession(folder, questions, given, offers, view).carried_out()
    except (KeyboardInterrupt, RecordError) as error:  # what was answered so far is kept
        if isinstance(error, KeyboardInterrupt):
            view.warn("interrupted")
        rest = [word for word in sys.argv[1:] if word != "--again"]  # what was answered meanwhile is new enough
        print_error(f"to go on: {shlex.join(['forgetkit', *rest])}")
        raise


class _AnalysisSession:
    """Questions to a run, or to the runs of an ablation and to all of them together."""

    def __init__(
        self,
        folder: Path,
        questions: Sequence[Question],
        given: Mapping[str, Any],
        offers: Registry,
        view: AnalysisDisplay,
    ) -> None:
        from forgetkit.cli.table import open_ablation
        from forgetkit.results.report import single_run

        self.folder, self.questions, self.given, self.offers, self.view = folder, questions, given, offers, view
        self.pool: CellStore | None = None
        self.grid = given["grid"]
        if single_run.is_run(folder):
            if self.grid is not None:
                raise OptionError(f"--grid {self.grid}: {folder} is the directory of a single run; leave it out")
        else:
            self.pool = open_ablation(folder, "analyze takes that of a run or of an ablation")
            self.grid = self.grid or next(iter(self.pool.grids()), None)

    def carried_out(self) -> tuple[dict[str, Any], int]:
        """What became of all questions, as ``--json`` prints it, and the exit status."""
        from forgetkit.analysis.questions import require_own_label
        from forgetkit.contracts import MultiRunAnalysis

        outcomes = self._outcomes(with_answers=False)
        places = self._places(outcomes)
        if not self.given["again"]:
            for question in self.questions:
                require_own_label(question, [place.folder for place in places])
        told: list[AnalysisOutcome] = []
        with self.view.following(len(places) * len(self.questions)):
            for one in self._asked(places, outcomes):
                about_all = one.became == "does not apply" and isinstance(one.question.analysis, MultiRunAnalysis)
                if self.pool is not None and about_all and not one.common:
                    self.view.pass_over(one)  # its answer is that of all runs together
                else:
                    self.view.tell(one)
                told.append(one)
        outcomes = self._outcomes()  # with the answers
        report = None if self.given["no_report"] else self._reported(told, outcomes)
        self.view.show(told, outcomes if self.pool is not None else None)
        if report is not None:
            self.view.say(f"report: {report}")
        return self._content(told, report), self._status(told)

    def _asked(self, places: Sequence[RunRef], outcomes: Outcomes) -> Iterator[AnalysisOutcome]:
        from forgetkit.results import questions

        means, again = self._means(), self.given["again"]
        yield from questions.ask_each(places, self.questions, means, again=again, about_to=self.view.asking)
        if self.pool is not None:
            yield from questions.ask_together(self.pool, self.grid, outcomes, self.questions, means, again=again)

    def _places(self, outcomes: Outcomes) -> tuple[RunRef, ...]:
        from forgetkit.results.questions import RunRef, run_refs

        if self.pool is None:
            return (RunRef(self.folder.resolve().name, self.folder),)
        found = run_refs(self.pool, outcomes)
        if not found:
            raise RunDirectoryError(f"{self.folder} has no finished cell: forgetkit ablate carries them out")
        return found

    def _outcomes(self, *, with_answers: bool = True) -> Outcomes:
        if self.pool is None:
            from forgetkit.results.report import single_run

            return single_run.single_run_outcomes(self.folder)
        return self.pool.outcomes(self.grid, with_answers=with_answers)

    def _means(self) -> AnalysisEnv:
        from forgetkit import config
        from forgetkit.analysis.run_evidence import AnalysisEnv
        from forgetkit.config import machine
        from forgetkit.display.run_display import choose_run_display

        elsewhere = {key: self.given[key] for key in config.OVERRIDABLE if self.given[key] is not None}
        loading = choose_run_display(quiet=True, as_json=self.given["json"])
        return AnalysisEnv(self.offers, machine.cache_folder(), elsewhere, (loading,), self.given["threads"])

    def _reported(self, told: Sequence[AnalysisOutcome], outcomes: Outcomes) -> Path | None:
        """The report, and the pictures beside the answers; None where nothing was answered."""
        from forgetkit.results import plots, table
        from forgetkit.results.report import render_page
        from forgetkit.storage import write_output

        answered = [one for one in told if one.answer is not None]
        if not answered:
            return None
        drawn = plots.has_matplotlib()
        if drawn:
            _draw([one for one in answered if one.became == "answered"])
        else:
            self.view.say(f"without pictures: {plots.MISSING}")
        target = self.folder / "report.html"
        figures = plots.draw_pictures(outcomes) if drawn else None
        write_output(target, render_page(outcomes, table.make_table(outcomes), figures).encode())
        return target

    def _content(self, told: Sequence[AnalysisOutcome], report: Path | None) -> dict[str, Any]:
        return {
            "directory": str(self.folder),
            "grid": self.grid if self.pool is not None else None,
            "answers": [_outcome_json(one) for one in told],
            "report": None if report is None else str(report),
        }

    def _status(self, told: Sequence[AnalysisOutcome]) -> int:
        """1 where an analysis failed, 2 where one that was named has no answer; that of the error where none has."""
        failed = [one.error for one in told if one.became == "failed" and one.error is not None]
        if failed and all(one.answer is None for one in told):
            return max(error.exit_status for error in failed)
        if failed:
            return 1
        if self.given["all"]:
            return 0
        reasons = {one.question.label: one.reason for one in told}
        for one in told:
            if one.answer is not None:
                reasons.pop(one.question.label, None)
        for label, reason in reasons.items():
            self.view.lacks(label, reason)
        return 2 if reasons else 0


def _questions(given: Mapping[str, Any], offers: Registry) -> list[Question]:
    """Those that are named, and with ``--all`` every other that there is."""
    from forgetkit.analysis.questions import Question, require_distinct_labels
    from forgetkit.contracts import MOST_THREADS

    names, seed, mega_batch = given["names"] or [], given["seed"] or 0, given["mega_batch"]
    if not names and not given["all"]:
        raise OptionError("name an analysis, or ask all of them by --all; forgetkit analyze --list lists them")
    if given["label"] is not None and (given["all"] or len(names) != 1):
        raise OptionError(f"--as {given['label']} is the name of one answer: ask one analysis")
    if seed < 0:
        raise OptionError(f"--seed {seed}: a seed is 0 or more")
    if (threads := given["threads"]) is not None and threads > MOST_THREADS:
        raise OptionError(f"--threads {threads}: at most {MOST_THREADS}")
    names = list(dict.fromkeys(names))
    made = [Question.of(offers, name, label=given["label"], seed=seed, mega_batch=mega_batch) for name in names]
    if given["all"]:
        asked = {type(question.analysis) for question in made}
        for offer in offers.named("analyses"):
            if offer.component not in asked:
                made.append(Question.of(offers, offers.label(offer), seed=seed, mega_batch=mega_batch))
    require_distinct_labels(made)
    return made


def _outcome_json(one: AnalysisOutcome) -> dict[str, Any]:
    numbers = {} if one.answer is None else one.answer.numbers
    return {
        "run": one.run,
        "common": one.common,
        "label": one.question.label,
        "analysis": one.question.spec,
        "became": one.became,
        "reason": one.reason,
        "numbers": {key: getattr(value, "value", value) for key, value in numbers.items()},
        "remarks": [] if one.answer is None else list(one.answer.remarks),
        "seconds": one.seconds,
    }


def _list(given: Mapping[str, Any], offers: Registry) -> dict[str, Any]:
    """What there is to ask."""
    for option in ("folder", "names", "all"):
        if given[option]:
            raise OptionError("--list lists the analyses there are and asks none: leave the rest out")
    from forgetkit.display import layout

    entries = {offers.label(offer): offer.summary for offer in offers.named("analyses")}
    if not given["json"]:
        console = Console()
        console.print(layout.listing(console.width, entries))
        console.print("forgetkit show analyses NAME has the options of one", markup=False)
    return {"analyses": entries}


def _export(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The masks of a run, for other programs."""
    from forgetkit import config
    from forgetkit.analysis.masks import export_masks
    from forgetkit.results.report import single_run

    for option in ("names", "all", "mega_batch", "seed", "label", "again", "grid", *config.OVERRIDABLE):
        if given[option]:
            word = {"names": "the analyses", "label": "--as"}.get(option, f"--{option.replace('_', '-')}")
            raise OptionError(f"--export-masks writes all masks of a run and asks nothing: leave out {word}")
    if not single_run.is_run(folder):
        raise RunDirectoryError(f"{folder} is not the directory of a run, which --export-masks takes")
    written = export_masks(folder, given["export_masks"])
    if not given["json"] and not given["quiet"]:
        Console().print(f"{given['export_masks']}: {written} arrays", markup=False)
    return {"masks": str(given["export_masks"]), "arrays": written}


def _draw(answered: Sequence[AnalysisOutcome]) -> None:
    """Each chart of the answers, as SVG beside the answer itself."""
    from forgetkit.analysis import answers
    from forgetkit.results import plots

    for one in answered:
        if one.answer is not None:
            for old in (answers.answers_folder(one.folder)).glob(f"{one.question.label}.*.svg"):  # of another answer
                old.unlink()
            for name, figure in plots.draw_answer(one.question.label, one.answer, common=one.common).items():
                plots.save(figure, answers.answers_folder(one.folder) / f"{name}.svg")
