"""The promises of analyses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgetkit.analysis import answers
from forgetkit.analysis.evidence import ModelEvidence, model_evidence
from forgetkit.contracts import Answer, DataPart
from forgetkit.errors import ComponentError, InapplicableError, RunDirectoryError
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing, networks, rows
from forgetkit.testing.case import KitCase
from forgetkit.testing.fixtures import SEEDS
from forgetkit.testing.networks import NetworkFixture
from forgetkit.testing.promise import Failure, NotApplicable, row


@dataclass(frozen=True, eq=False)
class AnalysisRecord:
    """An answer, and the network before and after."""

    answer: Any
    before: comparing.Snapshot
    after: comparing.Snapshot


@dataclass(frozen=True, eq=False)
class AnalysisCase(KitCase):
    """An analysis under examination."""

    generator: ClassVar[str] = "evidence.seeds"

    def usual_input(self) -> NetworkFixture:
        """Return a small network on images."""
        return networks.pixels()

    def perform(self, component: Any, given: NetworkFixture, seed: int) -> AnalysisRecord:
        """Analyze a network."""
        model = given.model.eval()
        evidence = _evidence_of(model, given)
        before = comparing.Snapshot.of(model)
        with seeded_rng(seed):
            answer = _analyze(component, evidence)
        return AnalysisRecord(answer, before, comparing.Snapshot.of(model))

    def act(self) -> object:
        """Analyze the network once."""
        fixture = self.usual_input()
        return _analyze(self.another(), _evidence_of(fixture.model.eval(), fixture))

    def outcome(self, record: AnalysisRecord) -> Any:
        """The answer as JSON."""
        try:
            return answers.answer_to_json(record.answer)
        except (AttributeError, ComponentError) as error:
            raise NotApplicable("the promise 'json-values' is broken") from error


def _evidence_of(model: nn.Module, fixture: NetworkFixture) -> ModelEvidence:
    inputs, labels = (torch.cat(parts) for parts in zip(*fixture.batches, strict=True))
    parts: dict[DataPart, tuple[Tensor, Tensor]] = {
        "test": (inputs, labels),
        "train": (inputs, labels),
        "val": (inputs, labels),
    }
    return model_evidence(model, parts, SEEDS.within("analysis"), initial=networks.pixels().model.eval())


def _analyze(analysis: Any, evidence: ModelEvidence) -> Any:
    try:
        return analysis.analyze(evidence)
    except InapplicableError as error:
        raise NotApplicable(f"it does not apply to a single model: {error}") from error


def runs(case: AnalysisCase) -> None:
    """`analyze(evidence)` returns an `Answer`."""
    answer = case.observe().answer
    if not isinstance(answer, Answer):
        raise Failure(f"analyze() returned {type(answer).__name__}, not an Answer")


def json_values(case: AnalysisCase) -> None:
    """The answer can be written as JSON and read back: no NaN, no infinity, texts for keys."""
    try:
        answers.answer_from_json(json.loads(json.dumps(answers.answer_to_json(case.usual.answer), allow_nan=False)))
    except (ComponentError, RunDirectoryError) as error:
        raise Failure(f"the answer cannot be written as JSON: {error}") from error


PROMISES = (
    row(runs),
    row(json_values),
    rows.leaves("parameters", "The analysis writes to no parameter."),
    rows.leaves("buffers", "The analysis writes to no buffer, such as running statistics."),
    rows.leaves("gradients", "The analysis leaves nothing in `.grad`, and `requires_grad` as it was."),
    rows.leaves("modes", "The analysis leaves each module in the mode that it was in."),
    rows.leaves("hooks", "The analysis leaves the network with the hooks that it had before."),
    rows.deterministic("One object, called twice under the same seeds, gives the same answer."),
    rows.own_randomness("The global random state neither changes the answer nor is changed."),
    rows.LEAVES_SETTINGS,
)
