"""What an analysis promises."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from forgetkit.analysis import answers
from forgetkit.analysis.evidence import ModelEvidence, model_evidence
from forgetkit.contracts import Answer, DataPart
from forgetkit.errors import ComponentError, InapplicableError, RunDirectoryError
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing, networks
from forgetkit.testing.common import KitCase
from forgetkit.testing.fixtures import SEEDS
from forgetkit.testing.promise import Failure, NotApplicable, Promise, promise


@dataclass(frozen=True, eq=False)
class AnalysisRecord:
    """An answer, and the network before and after."""

    answer: Any
    before: comparing.Snapshot
    after: comparing.Snapshot


@dataclass(frozen=True, eq=False)
class AnalysisCase(KitCase):
    """An analysis under examination."""

    def analysed(self, *, component: Any = None, seed: int = 0) -> AnalysisRecord:
        """What is said of a small network on images; ``seed`` is that of the global random state."""
        analysis = component if component is not None else self.another()
        shown = _AnalysisFixture()
        before = comparing.Snapshot.of(shown.model)
        with seeded_rng(seed):
            answer = _answer_text(analysis, shown.evidence)
        return AnalysisRecord(answer, before, comparing.Snapshot.of(shown.model))

    @cached_property
    def usual(self) -> AnalysisRecord:
        """The first answer, for every promise that is about that."""
        return self.analysed()


class _AnalysisFixture:
    """A network on images, made anew, and all that an analysis may ask of it."""

    def __init__(self) -> None:
        situation = networks.pixels()
        self.model = situation.model.eval()
        self.inputs, self.labels = (torch.cat(parts) for parts in zip(*situation.batches, strict=True))
        parts: dict[DataPart, tuple[Tensor, Tensor]] = {
            "test": (self.inputs, self.labels),
            "train": (self.inputs, self.labels),
            "val": (self.inputs, self.labels),
        }
        initial = networks.pixels().model.eval()
        self.evidence = model_evidence(self.model, parts, SEEDS.within("analysis"), initial=initial)


def _answer_text(analysis: Any, evidence: ModelEvidence) -> Any:
    try:
        return analysis.analyze(evidence)
    except InapplicableError as error:
        raise NotApplicable(f"it does not apply to a model by itself: {error}") from error


def runs(case: AnalysisCase) -> None:
    """`analyze(evidence)` returns an `Answer`."""
    answer = case.usual.answer
    if not isinstance(answer, Answer):
        raise Failure(f"analyze() returned {type(answer).__name__}, not an Answer")


def json_values(case: AnalysisCase) -> None:
    """The answer can be written as JSON and read back: no NaN, no infinity, texts for keys."""
    try:
        answers.answer_from_json(json.loads(json.dumps(answers.answer_to_json(case.usual.answer), allow_nan=False)))
    except (ComponentError, RunDirectoryError) as error:
        raise Failure(f"the answer cannot be written down: {error}") from error


def leaves_parameters(case: AnalysisCase) -> None:
    """No parameter is written to."""
    comparing.require_same(case.usual.before.parameters, case.usual.after.parameters, "afterwards, the parameter")


def leaves_buffers(case: AnalysisCase) -> None:
    """No buffer is written to, running statistics above all."""
    comparing.require_same(case.usual.before.buffers, case.usual.after.buffers, "afterwards, the buffer")


def leaves_gradients(case: AnalysisCase) -> None:
    """Nothing is left in `.grad`, and `requires_grad` is as it was."""
    comparing.require_same(case.usual.before.gradients, case.usual.after.gradients, "afterwards, the gradient of")


def leaves_modes(case: AnalysisCase) -> None:
    """Each module is in the mode that it was in."""
    comparing.require_same(case.usual.before.modes, case.usual.after.modes, "afterwards, the mode of the module")


def leaves_hooks(case: AnalysisCase) -> None:
    """The network has the hooks that it had before."""
    comparing.require_same(case.usual.before.hooks, case.usual.after.hooks, "afterwards, the hooks of the module")


def deterministic(case: AnalysisCase) -> None:
    """Asked twice under the same seeds, an analysis gives the same answer."""
    analysis = case.another()
    once = case.analysed(component=analysis)
    if _differ(once, case.analysed(component=analysis)):
        raise Failure("asked again, it gives another answer; remember nothing and draw from evidence.seeds alone")


def own_randomness(case: AnalysisCase) -> None:
    """The global random state has no part in the answer and is left as it was."""
    if _differ(case.usual, case.analysed()):
        raise NotApplicable("the promise 'deterministic' is broken")
    if _differ(case.analysed(seed=1), case.analysed(seed=2)):
        raise Failure("the answer varies with the global random state; draw from evidence.seeds")
    with comparing.watch_random_state():
        _answer_text(case.another(), _AnalysisFixture().evidence)


def leaves_settings(case: AnalysisCase) -> None:
    """The process-wide settings of torch and NumPy (default dtype, grad mode, autocast …) are as they were."""
    analysis, shown = case.another(), _AnalysisFixture()
    with comparing.watch_settings():
        _answer_text(analysis, shown.evidence)


def _differ(one: AnalysisRecord, other: AnalysisRecord) -> bool:
    """Whether two answers are written down differently."""
    try:
        return answers.answer_to_json(one.answer) != answers.answer_to_json(other.answer)
    except (AttributeError, ComponentError) as error:
        raise NotApplicable("the promise 'json-values' is broken") from error


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return promise(
        "analyses",
        *(runs, json_values, leaves_parameters, leaves_buffers, leaves_gradients, leaves_modes, leaves_hooks),
        *(deterministic, own_randomness, leaves_settings),
    )
