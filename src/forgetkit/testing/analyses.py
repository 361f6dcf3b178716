"""What an analysis promises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from forgetkit.seeding import global_state
from forgetkit.testing import comparing, networks
from forgetkit.testing.common import Case
from forgetkit.testing.promise import Broken, NotApplicable, Promise, stated
from forgetkit.testing.stage import SEEDS


@dataclass(frozen=True, eq=False)
class Analysed:
    """An answer, and the network and the samples before and after."""

    answer: Any
    before: comparing.Snapshot
    after: comparing.Snapshot
    samples_kept: bool


@dataclass(frozen=True, eq=False)
class AnalysisCase(Case):
    """An analysis under examination."""

    def analysed(self, *, component: Any = None, seed: int = 0) -> Analysed:
        """What is said of a small network with batch normalisation; ``seed`` is that of the global random state."""
        analysis = component if component is not None else self.another()
        situation = networks.batch_norm()
        model = situation.model.eval()
        inputs, labels = (torch.cat(parts) for parts in zip(*situation.batches, strict=True))
        handed, before = (inputs.clone(), labels.clone()), comparing.Snapshot.of(model)
        with global_state(seed):
            answer = analysis.analyze(model, *handed, SEEDS.torch("analysis"))
        kept = comparing.same_bits((inputs, labels), handed)
        return Analysed(answer, before, comparing.Snapshot.of(model), kept)

    @cached_property
    def usual(self) -> Analysed:
        """The first answer, for every promise that is about that."""
        return self.analysed()


def runs(case: AnalysisCase) -> None:
    """`analyze(model, inputs, labels, rng)` returns a mapping."""
    answer = case.usual.answer
    if not isinstance(answer, Mapping):
        raise Broken(f"analyze() returned {type(answer).__name__}, not a mapping")


def json_values(case: AnalysisCase) -> None:
    """The answer can be written as JSON as it is, without NaN or infinity."""
    answer = dict(case.usual.answer)
    try:
        again = json.loads(json.dumps(answer, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Broken(f"the answer cannot be written as JSON: {error}") from error
    if again.keys() != answer.keys():
        raise Broken("the answer has keys that are no texts")


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


def leaves_samples(case: AnalysisCase) -> None:
    """Inputs and labels are as before."""
    if not case.usual.samples_kept:
        raise Broken("it writes into the inputs or labels that it is handed")


def deterministic(case: AnalysisCase) -> None:
    """Asked twice under one `rng`, an analysis gives the same answer."""
    analysis = case.another()
    once = case.analysed(component=analysis)
    if not comparing.same_bits(once.answer, case.analysed(component=analysis).answer):
        raise Broken("asked again, it gives another answer; remember nothing and draw from rng alone")


def own_randomness(case: AnalysisCase) -> None:
    """The global random state has no part in the answer and is left as it was."""
    if not comparing.same_bits(case.usual.answer, case.analysed().answer):
        raise NotApplicable("the promise 'deterministic' is broken")
    if not comparing.same_bits(case.analysed(seed=1).answer, case.analysed(seed=2).answer):
        raise Broken("the answer varies with the global random state; draw from rng")
    situation = networks.batch_norm()
    inputs, labels = (torch.cat(parts) for parts in zip(*situation.batches, strict=True))
    with comparing.random_state_watched():
        case.another().analyze(situation.model.eval(), inputs, labels, SEEDS.torch("analysis"))


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return stated(
        "analyses",
        *(runs, json_values, leaves_parameters, leaves_buffers, leaves_gradients, leaves_modes, leaves_hooks),
        *(leaves_samples, deterministic, own_randomness),
    )
