"""Questions to a model, to a finished run, or to several runs together."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from forgetkit import contracts
from forgetkit._version import __version__
from forgetkit.analysis import answers
from forgetkit.analysis.evidence import ModelEvidence
from forgetkit.analysis.run_evidence import FinishedRun, RunEvidence
from forgetkit.config import name_of
from forgetkit.contracts import Answer, ComparedRun
from forgetkit.engine.context import compute_settings
from forgetkit.errors import ComponentError, InapplicableError, OptionError
from forgetkit.registry.registry import Registry
from forgetkit.seeding import Seeds, seeded_rng
from forgetkit.system.torch_settings import torch_settings
from forgetkit.unlearning.integrity import component_call, read_only

_ROOT = "analysis"
_WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True, eq=False)
class Question:
    """An analysis with its options, the label of its stored answer, and its seed.

    ``mega_batch`` None is the last; ``plugins`` are the versions of the plugins that contribute to the answer.
    """

    analysis: contracts.Analysis
    spec: str
    label: str
    seed: int = 0
    mega_batch: int | None = None
    plugins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        components: Registry,
        analysis: str | contracts.Analysis,
        *,
        label: str | None = None,
        seed: int = 0,
        mega_batch: int | None = None,
    ) -> Question:
        """Make a question of a SPEC or an object.

        Without ``label``, the label is the component's name, followed by the mega-batch if there is one.
        """
        spec, component = components.make("analyses", analysis)
        name = name_of(spec)
        if label is None:
            word = name.rpartition("/")[2].rpartition(".")[2].lower()
            label = word if mega_batch is None else f"{word}-{mega_batch:03}"
        return cls(
            component, spec, answers.parse_label(label), seed, mega_batch, _plugins_of(components, spec, component)
        )

    @property
    def seeds(self) -> Seeds:
        """The same seeds for each run, so that arms are compared on the same noise."""
        return question_seeds(self.seed, name_of(self.spec))

    @property
    def summary(self) -> str:
        """The first line of the analysis' docstring."""
        return (inspect.getdoc(type(self.analysis)) or "").partition("\n")[0]

    def to_json(self, **context: Any) -> dict[str, Any]:
        """The question as it is stored with its answer, to recognise it; ``context`` is about the run."""
        return {
            "analysis": self.spec,
            "summary": self.summary,
            "seed": self.seed,
            **context,
            "versions": {"forgetkit": __version__, "torch": torch.__version__, "plugins": dict(self.plugins)},
        }


def question_seeds(seed: int, *names: str) -> Seeds:
    """The random streams of a question; raises ``OptionError`` if the seed is negative."""
    if seed < 0:
        raise OptionError(f"seed {seed}: a seed is 0 or more")
    return Seeds(seed).within(_ROOT, *names)


def _plugins_of(components: Registry, spec: str, analysis: contracts.Analysis) -> dict[str, str]:
    """The plugins of the analysis and of the criteria that its options may name, with version or digest."""
    named = set(_WORD.findall(spec))
    return {
        entry.distribution: components.plugins[entry.distribution]
        for entry in components.components
        if entry.distribution in components.plugins
        and (entry.component is type(analysis) or (entry.kind == "importance" and entry.name in named))
    }


def ask_model(question: Question, evidence: ModelEvidence) -> Answer:
    """Ask a question of a model; its bits, modes, gradients and hooks stay as they are.

    Raises ``ComponentError`` if the analysis changes a parameter, raises, or does not return an :class:`Answer`.
    """
    name = contracts.component_name(question.analysis)
    with read_only(evidence.model, f"the analysis {name}", question.seeds.number("lent")):
        return _ask(question, lambda: question.analysis.analyze(evidence))


def ask_run(question: Question, finished: FinishedRun) -> Answer:
    """Ask a question of a finished run, and store the answer in its directory."""
    evidence = RunEvidence.of(finished, question.mega_batch, question.seeds)
    with compute_settings(finished.threads):
        answer = _ask(question, lambda: question.analysis.analyze(evidence))
    answers.store_answer(
        finished.directory.path, question.label, _of_run(question, finished), answers.answer_to_json(answer)
    )
    return answer


def cached_answer(question: Question, finished: FinishedRun) -> Answer | None:
    """The stored answer to exactly this question, by the same versions."""
    return answers.cached_answer(finished.directory.path, question.label, _of_run(question, finished))


def _of_run(question: Question, finished: FinishedRun) -> dict[str, Any]:
    count = int(finished.result["config"]["mega_batches"])
    return question.to_json(mega_batch=question.mega_batch or count, run_id=finished.directory.run_id)


def ask_group(question: Question, cells: Sequence[ComparedRun], folder: Path, digests: Sequence[str]) -> Answer:
    """Ask a :class:`MultiRunAnalysis` about several runs, and store the answer in ``folder``."""
    comparing: object = question.analysis
    if not isinstance(comparing, contracts.MultiRunAnalysis):
        raise InapplicableError(f"{question.spec} looks at one run at a time")
    runs = [cell.evidence.finished for cell in cells if isinstance(cell.evidence, RunEvidence)]
    with compute_settings(max((run.threads or 0 for run in runs), default=0) or None):
        answer = _ask(question, lambda: comparing.compare(cells))
    answers.store_answer(folder, question.label, _of_several(question, digests), answers.answer_to_json(answer))
    return answer


def cached_group_answer(question: Question, folder: Path, digests: Sequence[str]) -> Answer | None:
    """The stored answer about exactly these runs."""
    return answers.cached_answer(folder, question.label, _of_several(question, digests))


def _of_several(question: Question, digests: Sequence[str]) -> dict[str, Any]:
    return question.to_json(mega_batch=question.mega_batch, cells=list(digests))


def _ask(question: Question, analyze: Callable[[], Any]) -> Answer:
    """Run the analysis under random streams of its own; an error of a plugin becomes a ``ComponentError``."""
    name = contracts.component_name(question.analysis)
    with torch_settings(), component_call(f"the analysis {name}"), seeded_rng(question.seeds.number("global")):
        answer = analyze()
    if not isinstance(answer, Answer):
        raise ComponentError(f"the analysis {name} answered {type(answer).__name__}, not an Answer")
    try:
        return answers.answer_from_json(answers.answer_to_json(answer))
    except ComponentError as error:
        raise ComponentError(f"the analysis {name}: {error}") from error


def require_own_label(question: Question, folders: Sequence[Path]) -> None:
    """Raise ``OptionError`` if the label belongs to the answer of another analysis, which would be overwritten."""
    for folder in folders:
        other = answers.label_owner(folder, question.label)
        if other is not None and name_of(other) != name_of(question.spec):
            raise OptionError(
                f"{folder} has an answer of {name_of(other)} under the name {question.label}: choose another by --as, "
                "or --again to replace it"
            )


def require_distinct_labels(questions: Sequence[Question]) -> None:
    """Raise ``OptionError`` if two answers would be stored under one label."""
    seen: dict[str, Question] = {}
    for question in questions:
        other = seen.setdefault(question.label, question)
        if other is not question:
            raise OptionError(
                f"{other.spec} and {question.spec} would both be kept as {question.label}: "
                "ask them one after the other, one of them with --as"
            )
