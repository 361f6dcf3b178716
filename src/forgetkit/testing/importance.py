"""The promises of importance criteria.

A criterion gets the probe that a run would hand it, without the host's checks and repairs: those faults are what the
kit looks for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgetkit.contracts import Probe, SampleLimit
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing, networks, rows
from forgetkit.testing.fixtures import RecordedRequests, scoring_stage
from forgetkit.testing.networks import NetworkFixture
from forgetkit.testing.promise import Failure, NotApplicable, row
from forgetkit.testing.watching import NEEDS_PREVIOUS, WHILE_TRAINING, WatchingCase, needs_data

Oracle = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Tensor]]
"""The closed form of a criterion's scores of a linear network, as a function of the network and all its samples."""


@dataclass(frozen=True, eq=False)
class ScoreRecord:
    """The scores of a network, and the network before and after."""

    scores: Mapping[str, Any]
    targets: Mapping[str, Tensor]
    memory: Mapping[str, Any]
    """What the criterion kept from a training before, if it is an intervention too."""
    requests: RecordedRequests
    before: comparing.Snapshot
    after: comparing.Snapshot


def keys(record: ScoreRecord) -> None:
    """There is a score for each name in `probe.targets` and no other."""
    for name in record.targets.keys() - record.scores.keys():
        raise Failure(f"there is no score for '{name}'")
    for name in record.scores.keys() - record.targets.keys():
        raise Failure(f"there is a score for '{name}', which is not in probe.targets")


def shapes(record: ScoreRecord) -> None:
    """Each score has the shape of its parameter."""
    for name, score in record.scores.items():
        target = record.targets.get(name)
        if target is not None and tuple(getattr(score, "shape", target.shape)) != tuple(target.shape):
            raise Failure(f"the score of '{name}' has shape {tuple(score.shape)}, the parameter {tuple(target.shape)}")


def floats(record: ScoreRecord) -> None:
    """Each score is a float32 tensor."""
    for name, score in record.scores.items():
        if not isinstance(score, Tensor):
            raise Failure(f"the score of '{name}' is {type(score).__name__}, not a tensor")
        if score.dtype != torch.float32:
            raise Failure(f"the score of '{name}' is {score.dtype}, not torch.float32")


def finite(record: ScoreRecord) -> None:
    """No score is NaN or infinite."""
    for name, score in record.scores.items():
        if isinstance(score, Tensor) and not bool(torch.isfinite(score).all()):
            raise Failure(f"the score of '{name}' holds NaN or infinity")


FORM = tuple(map(row, (keys, shapes, floats, finite)))


@dataclass(frozen=True, eq=False)
class ImportanceCase(WatchingCase):
    """A criterion under examination."""

    oracle: Oracle | None = None

    answer: ClassVar[str] = "the score"
    generator: ClassVar[str] = "probe.rng or probe.rng_for(name)"
    form: ClassVar = FORM

    def perform(self, component: Any, given: NetworkFixture, seed: int) -> ScoreRecord:
        """Score a network."""
        requests = RecordedRequests()
        with scoring_stage(given, component, requests) as probe, seeded_rng(seed):
            targets = {name: target.detach().clone() for name, target in probe.targets.items()}
            memory = copy.deepcopy(dict(probe.memory))
            before = comparing.Snapshot.of(given.model)
            scores = _scores_of(component, probe)
            return ScoreRecord(scores, targets, memory, requests, before, comparing.Snapshot.of(given.model))

    @contextmanager
    def prepared(self) -> Iterator[Callable[[], object]]:
        """Yield a call on the plain network."""
        criterion = self.another()
        with scoring_stage(networks.plain(), criterion, RecordedRequests()) as probe:
            yield lambda: _scores_of(criterion, probe)

    def outcome(self, record: ScoreRecord) -> Mapping[str, Any]:
        """The scores."""
        return record.scores


def _scores_of(criterion: Any, probe: Probe) -> Mapping[str, Any]:
    """Return the scores, each computed: the mapping may be lazy."""
    answer = criterion.score(probe)
    if not isinstance(answer, Mapping):
        raise Failure(f"score() returned {type(answer).__name__}, not a mapping from parameter names to tensors")
    return {name: answer[name] for name in answer}


def different(case: ImportanceCase) -> None:
    """Not all scores are equal, unless the class says `allows_ties = True`."""
    if getattr(case.component, "allows_ties", False):
        raise NotApplicable("it says allows_ties = True")
    values = {float(value) for score in case.sound().scores.values() for value in (score.min(), score.max())}
    if len(values) == 1:
        raise Failure(f"it scores every entry {values.pop():g}; if that is intended, say allows_ties = True")


def sample_budget(case: ImportanceCase) -> None:
    """With `samples=k` at most k different samples are drawn; with a fraction, at most that fraction of them."""
    option = case.option("samples")
    if option is None:
        raise NotApplicable("it has no option samples")
    total = networks.plain().samples
    limits: dict[int | float, int] = {3: 3, 0.5: total // 2}
    for samples, limit in limits.items():
        if isinstance(samples, float) and option.type != SampleLimit:
            continue  # an option of another type takes no fractions
        drawn = len(case.borrowed(component=case.with_options(samples=samples)).requests.samples)
        if drawn > limit:
            raise Failure(f"with samples={samples} it draws {drawn} of {total} samples; at most {limit} are allowed")


def leaves_hooks(case: ImportanceCase) -> None:
    """Scoring removes no hook of the network; the host removes those that scoring adds."""
    record = case.borrowed(networks.hooked)
    for name, hooks in record.before.hooks.items():
        if set(hooks) - set(record.after.hooks.get(name, ())):
            raise Failure(f"scoring removes a hook that the module '{name}' had before")


def dropout(case: ImportanceCase) -> None:
    """Dropout does not change the scores: the network is in eval mode and stays in it."""
    case.require_as_sound(lambda: case.observe(networks.dropout))
    case.require_repeatable()
    if case.variation():
        raise NotApplicable("the promise 'own-randomness' is broken")
    if case.variation(networks.dropout):
        raise Failure("dropout is active during scoring: the scores vary with the global random state")


def channels_last(case: ImportanceCase) -> None:
    """The memory format changes no score by more than rounding."""
    case.require_as_sound(lambda: case.observe(networks.channels_last))
    case.require_repeatable()
    usual, other = case.sound().scores, case.sound(networks.channels_last).scores
    for name, score in usual.items():
        if not comparing.nearly(other[name], score):
            raise Failure(f"the score of '{name}' differs in channels_last")


def higher_is_keep(case: ImportanceCase) -> None:
    """A unit whose weights are all zero, so that it has no effect, scores at most the median of the others."""
    scores = case.sound(networks.useless).scores
    dead = {"body.weight": (slice(None, networks.DEAD),), "head.weight": (slice(None), slice(None, networks.DEAD))}
    for name, where in dead.items():
        score = scores[name]
        useless = torch.zeros_like(score, dtype=torch.bool)
        useless[where] = True
        if bool(score[useless].max() > score[~useless].median()):
            raise Failure(f"an entry of '{name}' without any effect scores above the median of those that have one")


def oracle(case: ImportanceCase) -> None:
    """On a linear network the scores are those of the closed form in `oracle=`."""
    if case.oracle is None:
        raise NotApplicable("no closed form was given: pass oracle=")
    linear = networks.linear()
    inputs, targets = (torch.cat(parts) for parts in zip(*linear.batches, strict=True))
    expected = case.oracle(linear.model, inputs, targets)
    for name, score in case.sound(networks.linear).scores.items():
        if name not in expected:
            raise Failure(f"the closed form has nothing for '{name}'")
        if not comparing.nearly(score, expected[name].detach()):
            raise Failure(f"the scores of '{name}' are not those of the closed form")


PROMISES = (
    rows.runs("`score(probe)` returns a mapping for a small convolutional network.", "a small convolutional network"),
    *rows.of_usual(FORM),
    row(different),
    rows.deterministic("One object, called twice under the same `probe.rng`, gives the same scores to the bit."),
    rows.own_randomness("The global random state neither changes the scores nor is changed."),
    rows.LEAVES_SETTINGS,
    row(sample_budget),
    needs_data("The class draws no samples if and only if it says `needs_data = False`.", default=True),
    NEEDS_PREVIOUS,
    rows.leaves("parameters", "Scoring writes to no parameter.", networks.batch_norm),
    rows.leaves("buffers", "Scoring writes to no buffer, such as running statistics.", networks.batch_norm),
    rows.leaves("gradients", "Scoring leaves nothing in `.grad`, and `requires_grad` as it was."),
    rows.leaves("modes", "Scoring leaves each module in the mode that it was in.", networks.batch_norm),
    row(leaves_hooks),
    rows.copes(networks.frozen, "A network with frozen parameters is scored, without them."),
    rows.copes(networks.tied, "A parameter that two layers share is scored once, under its first name."),
    rows.copes(
        networks.unused, "A network with a layer that the loss does not depend on is scored, without that layer."
    ),
    rows.copes(networks.batch_norm, "A network with batch normalisation is scored, on a batch of one sample too."),
    row(dropout),
    rows.copes(networks.scalars, "Parameters without a dimension, and with one that are no biases, are scored."),
    rows.copes(networks.dead_units, "Units that never fire, whose gradients are all zero, get finite scores."),
    row(channels_last),
    rows.copes(networks.half_precision, "A network with weights in bfloat16 gets float32 scores, all finite."),
    row(higher_is_keep),
    row(oracle),
    *WHILE_TRAINING,
)
