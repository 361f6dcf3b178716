"""Each broken component breaks one promise and no other; the built-ins keep them all. Criteria: test_importance.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from helpers import broken_interventions, broken_others, broken_reinit, broken_replay
from helpers.conformance import OF_EVERY_KIND, broken_in, own
from pydantic import Field

from forgetkit import testing
from forgetkit.contracts import ReinitContext
from forgetkit.testing import Verdict, examine

BROKEN = {
    **broken_others.BROKEN,
    "interventions": broken_interventions.BROKEN,
    "reinit": broken_reinit.BROKEN,
    "replay": broken_replay.BROKEN,
}
GOOD = {
    **broken_others.GOOD,
    "interventions": broken_interventions.Good,
    "reinit": broken_reinit.Good,
    "replay": broken_replay.Good,
}
CASES = [
    pytest.param(kind, promise, component, id=f"{kind}-{promise}-{component.__name__}")
    for kind, broken in BROKEN.items()
    for promise, components in broken.items()
    for component in components
]
BUILT_INS = {
    "datasets": ("digits", "synthetic", "synthetic:samples=60,test=20,classes=3"),
    "metrics": ("cer", "generalization-gap", "mean-anytime-error", "test-accuracy"),
    "models": ("mlp", "mlp:depth=0", "convnet", "resnet18"),
    "reinit": (
        *("masked", "masked:fresh=uniform", "masked:fresh=rewind", "masked:round=up", "masked:ties=drop"),
        *("masked:norm=skip", "masked:params=conv-linear", "llf", "llf:start=1", "llf:start=1,norm=reset", "rifle"),
        *("cold", "cold:draw=same", "shrink-perturb", "shrink-perturb:stats=reset", "none"),
    ),
    "replay": ("buffer", "buffer:size=7", "buffer:rule=per-mega-batch", "buffer:rule=lure", "full", "last", "none"),
}
CHECKS = {
    "datasets": testing.check_dataset,
    "metrics": testing.check_metric,
    "models": testing.check_model,
    "reinit": testing.check_reinit,
    "replay": testing.check_replay,
}
EXPECTED = {
    "masked:params=conv-linear": {"exact-fraction": "of the selected entries only matrices and kernels are reset"}
}


def by_name(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    return {verdict.promise.name: verdict for verdict in verdicts}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "promise", "component"), CASES)
def test_each_breaks_one_promise(kind: str, promise: str, component: type) -> None:
    assert broken_in(examine(kind, component)) == [promise]


@pytest.mark.parametrize("kind", BROKEN)
def test_there_is_a_broken_one_for_each_promise(kind: str) -> None:
    assert {*BROKEN[kind], *OF_EVERY_KIND} == set(own(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", GOOD)
def test_a_sound_one_breaks_none(kind: str) -> None:
    verdicts = by_name(examine(kind, GOOD[kind]))
    assert {verdicts[name].status for name in own(kind)} == {"kept"}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "spec"), [(kind, spec) for kind, specs in BUILT_INS.items() for spec in specs])
def test_the_built_ins_keep_them_all(kind: str, spec: str) -> None:
    CHECKS[kind](spec, expected_failures=EXPECTED.get(spec, {}))


def test_a_network_that_takes_none_of_the_samples_is_not_judged() -> None:
    verdicts = by_name(examine("models", broken_others.ModelRefuses))
    assert verdicts["runs"].status == verdicts["outputs"].status == "not applicable"
    assert "this network hears" in verdicts["outputs"].reason
    assert verdicts["summary"].status == "kept"


@dataclass(frozen=True)
class Some(broken_reinit.Good):
    """Needs something to forget."""

    fraction: Annotated[float, Field(gt=0)] = 0.3

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        if not self.fraction:
            raise RuntimeError("the annotation excludes this")
        return super().propose(context)


def test_a_fraction_that_the_annotation_excludes_is_not_tried() -> None:
    assert by_name(examine("reinit", Some))["exact-fraction"].status == "kept"


@pytest.mark.parametrize(("spec", "status"), [("buffer", "kept"), ("buffer:rule=lure", "not applicable")])
def test_a_reservoir_is_checked_as_one(spec: str, status: str) -> None:
    verdicts = by_name(examine("replay", spec))
    assert verdicts["uniform"].status == verdicts["capacity"].status == status
