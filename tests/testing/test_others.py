"""Each broken data set, network, metric, observer, analysis and executor breaks one promise and no other."""

from __future__ import annotations

import pytest
from helpers.broken_others import BROKEN, GOOD, ModelRefuses
from helpers.conformance import OF_EVERY_KIND, broken_in

from forgetkit import testing
from forgetkit.testing import examine, promises

CASES = [
    pytest.param(kind, promise, component, id=f"{kind}-{promise}-{component.__name__}")
    for kind, broken in BROKEN.items()
    for promise, components in broken.items()
    for component in components
]
BUILT_INS = {
    "datasets": ("digits", "synthetic", "synthetic:samples=60,test=20,classes=3"),
    "models": ("mlp", "mlp:depth=0", "convnet", "resnet18"),
    "metrics": ("cer", "generalization-gap", "mean-anytime-error", "test-accuracy"),
}


@pytest.mark.parametrize(("kind", "promise", "component"), CASES)
def test_each_breaks_one_promise(kind: str, promise: str, component: type) -> None:
    assert broken_in(examine(kind, component)) == [promise]


@pytest.mark.parametrize("kind", BROKEN)
def test_there_is_a_broken_one_for_each_promise(kind: str) -> None:
    assert {*BROKEN[kind], *OF_EVERY_KIND} == {promise.name for promise in promises(kind)}


@pytest.mark.parametrize("kind", GOOD)
def test_a_sound_one_breaks_none(kind: str) -> None:
    assert {verdict.status for verdict in examine(kind, GOOD[kind])} == {"kept"}


@pytest.mark.parametrize(("kind", "spec"), [(kind, spec) for kind, specs in BUILT_INS.items() for spec in specs])
def test_the_built_ins_keep_them_all(kind: str, spec: str) -> None:
    check = {"datasets": testing.check_dataset, "models": testing.check_model, "metrics": testing.check_metric}[kind]
    check(spec)


def test_a_network_that_takes_none_of_the_samples_is_not_judged() -> None:
    statuses = {verdict.promise.name: verdict for verdict in examine("models", ModelRefuses)}
    assert statuses["runs"].status == statuses["outputs"].status == "not applicable"
    assert "this network hears" in statuses["outputs"].reason
    assert statuses["summary"].status == "kept"
