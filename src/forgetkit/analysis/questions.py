"""Putting a question: to a model by itself, to a finished run, to several runs together."""

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
    """An analysis with its options, the label that its answer is kept under, and what it is asked with.

    ``mega_batch`` None is the last; ``plugins`` are the versions of third parties that have a part in the answer.
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
        offers: Registry,
        asked: str | contracts.Analysis,
        *,
        label: str | None = None,
        seed: int = 0,
        mega_batch: int | None = None,
    ) -> Question:
        """A SPEC or an object. The label is the component's name, with the mega-batch behind it where one is given."""
        spec, analysis = offers.make("analyses", asked)
        name = name_of(spec)
        if label is None:
            word = name.rpartition("/")[2].rpartition(".")[2].lower()
            label = word if mega_batch is None else f"{word}-{mega_batch:03}"
        return cls(analysis, spec, answers.parse_label(label), seed, mega_batch, _with_a_part(offers, spec, analysis))

    @property
    def seeds(self) -> Seeds:
        """The same for each run, so that draws are: arms are then compared on the same noise."""
        return question_seeds(self.seed, name_of(self.spec))

    @property
    def summary(self) -> str:
        """The first line of what the analysis says of itself."""
        return (inspect.getdoc(type(self.analysis)) or "").partition("\n")[0]

    def written(self, **beside: Any) -> dict[str, Any]:
        """What an answer is kept with, to know it for an answer to this question."""
        return {
            "analysis": self.spec,
            "summary": self.summary,
            "seed": self.seed,
            **beside,
            "versions": {"forgetkit": __version__, "torch": torch.__version__, "plugins": dict(self.plugins)},
        }


def question_seeds(seed: int, *names: str) -> Seeds:
    """The random streams of a question."""
    if seed < 0:
        raise OptionError(f"seed {seed}: a seed is 0 or more")
    return Seeds(seed).within(_ROOT, *names)


def _with_a_part(offers: Registry, spec: str, analysis: contracts.Analysis) -> dict[str, str]:
    """Plugins, by version or digest: that of the analysis, and those of criteria that its options may name."""
    named = set(_WORD.findall(spec))
    return {
        offer.distribution: offers.plugins[offer.distribution]
        for offer in offers.components
        if offer.distribution in offers.plugins
        and (offer.component is type(analysis) or (offer.kind == "importance" and offer.name in named))
    }


def ask_model(question: Question, evidence: ModelEvidence) -> Answer:
    """Of a model by itself, which is left as it was: in each bit, mode, gradient and hook.

    ``ComponentError`` where the analysis changes a parameter, raises, or answers what is no :class:`Answer`.
    """
    name = contracts.component_name(question.analysis)
    with read_only(evidence.model, f"the analysis {name}", question.seeds.number("lent")):
        return _put_question(question, lambda: question.analysis.analyze(evidence))


def ask_run(question: Question, finished: FinishedRun) -> Answer:
    """Of a finished run; the answer is kept in its directory."""
    evidence = RunEvidence.of(finished, question.mega_batch, question.seeds)
    with compute_settings(finished.threads):
        answer = _put_question(question, lambda: question.analysis.analyze(evidence))
    answers.store_answer(
        finished.directory.path, question.label, _of_run(question, finished), answers.answer_to_json(answer)
    )
    return answer


def cached_answer(question: Question, finished: FinishedRun) -> Answer | None:
    """The answer that is there already to exactly this question, by these versions."""
    return answers.cached_answer(finished.directory.path, question.label, _of_run(question, finished))


def _of_run(question: Question, finished: FinishedRun) -> dict[str, Any]:
    count = int(finished.result["config"]["mega_batches"])
    return question.written(mega_batch=question.mega_batch or count, run_id=finished.directory.run_id)


def ask_group(question: Question, cells: Sequence[ComparedRun], folder: Path, digests: Sequence[str]) -> Answer:
    """Of several runs, by an analysis that is :class:`MultiRunAnalysis`; the answer is kept in ``folder``."""
    comparing: object = question.analysis
    if not isinstance(comparing, contracts.MultiRunAnalysis):
        raise InapplicableError(f"{question.spec} looks at one run at a time")
    runs = [cell.evidence.finished for cell in cells if isinstance(cell.evidence, RunEvidence)]
    with compute_settings(max((run.threads or 0 for run in runs), default=0) or None):
        answer = _put_question(question, lambda: comparing.compare(cells))
    answers.store_answer(folder, question.label, _of_several(question, digests), answers.answer_to_json(answer))
    return answer


def cached_group_answer(question: Question, folder: Path, digests: Sequence[str]) -> Answer | None:
    """The answer that is there already about exactly these runs."""
    return answers.cached_answer(folder, question.label, _of_several(question, digests))


def _of_several(question: Question, digests: Sequence[str]) -> dict[str, Any]:
    return question.written(mega_batch=question.mega_batch, cells=list(digests))


def _put_question(question: Question, put: Callable[[], Any]) -> Answer:
    """Under random streams of the question's own; what a stranger's code raises is a ``ComponentError``."""
    name = contracts.component_name(question.analysis)
    with torch_settings(), component_call(f"the analysis {name}"), seeded_rng(question.seeds.number("global")):
        answer = put()
    if not isinstance(answer, Answer):
        raise ComponentError(f"the analysis {name} answered {type(answer).__name__}, not an Answer")
    try:
        return answers.answer_from_json(answers.answer_to_json(answer))
    except ComponentError as error:
        raise ComponentError(f"the analysis {name}: {error}") from error


def require_own_label(question: Question, folders: Sequence[Path]) -> None:
    """``OptionError`` where the label is that of another analysis' answer, which would be lost."""
    for folder in folders:
        other = answers.label_owner(folder, question.label)
        if other is not None and name_of(other) != name_of(question.spec):
            raise OptionError(
                f"{folder} has an answer of {name_of(other)} under the name {question.label}: choose another by --as, "
                "or --again to replace it"
            )


def require_distinct_labels(questions: Sequence[Question]) -> None:
    """``OptionError`` where two answers would be kept under one label."""
    seen: dict[str, Question] = {}
    for question in questions:
        other = seen.setdefault(question.label, question)
        if other is not question:
            raise OptionError(
                f"{other.spec} and {question.spec} would both be kept as {question.label}: "
                "ask them one after the other, one of them with --as"
            )
