"""Criteria and ways of forgetting that are interventions too promise what those do."""

from __future__ import annotations

import pytest
from helpers import broken_importance, broken_reinit
from helpers.broken_interventions import BROKEN
from helpers.broken_watchers import CRITERIA, METHODS, AllAtOnce, EarlyBefore, Remembers, Tidies
from helpers.conformance import broken_in, cases

from forgetkit.testing import BrokenPromise, check, check_importance, examine, promises


@pytest.mark.slow
@pytest.mark.parametrize(("promise", "component"), cases(CRITERIA))
def test_each_criterion_breaks_one_promise(promise: str, component: type) -> None:
    assert broken_in(examine("importance", component)) == [promise]


@pytest.mark.slow
@pytest.mark.parametrize(("promise", "component"), cases(METHODS))
def test_each_way_of_forgetting_breaks_one_promise(promise: str, component: type) -> None:
    assert broken_in(examine("reinit", component)) == [promise]


@pytest.mark.parametrize("kind", ["importance", "reinit"])
def test_they_are_the_promises_of_interventions(kind: str) -> None:
    texts = {promise.name: promise.text for promise in promises(kind)}
    for promise in promises("interventions"):
        if promise.name in BROKEN:
            assert texts[f"while-training-{promise.name}"] == promise.text


def test_there_is_a_broken_one_for_each_promise() -> None:
    assert set(CRITERIA) == {f"while-training-{promise}" for promise in BROKEN}
    assert set(METHODS) < set(CRITERIA)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "component"), [("importance", Remembers), ("reinit", Tidies)])
def test_a_sound_one_breaks_none(kind: str, component: type) -> None:
    verdicts = examine(kind, component)
    assert {v.status for v in verdicts if v.promise.name.startswith("while-training-")} == {"kept"}
    assert broken_in(verdicts) == []


@pytest.mark.parametrize(
    ("kind", "component"), [("importance", broken_importance.Good), ("reinit", broken_reinit.Good)]
)
def test_of_one_that_is_no_intervention_nothing_is_asked(kind: str, component: type) -> None:
    for verdict in examine(kind, component):
        watching = verdict.promise.name.startswith("while-training-")
        assert (verdict.reason == "it is no Intervention, so it takes no part in the training") is watching
        assert (verdict.status == "not applicable") or not watching


@pytest.mark.slow
def test_several_faults_are_each_named() -> None:
    with pytest.raises(BrokenPromise) as caught:
        check_importance(AllAtOnce)
    for promise in ("state-tensors", "own-randomness", "touches"):
        assert f"while-training-{promise}" in str(caught.value)


@pytest.mark.slow
def test_previous_weights_may_be_asked_for_in_the_training_alone() -> None:
    assert broken_in(examine("importance", EarlyBefore)) == []


def test_criterion_failing_in_training_is_judged_by_that_alone() -> None:
    verdicts = {v.promise.name: v for v in examine("importance", CRITERIA["while-training-runs"][0])}
    assert "RuntimeError: out of order" in verdicts["while-training-runs"].reason
    assert "broken_interventions.py:" in verdicts["while-training-runs"].reason
    assert verdicts["while-training-touches"].reason == "it does not run"
    assert verdicts["runs"].status == verdicts["keys"].status == "not applicable"
    assert verdicts["summary"].status == "kept"


@pytest.mark.slow
def test_one_promise_at_a_time() -> None:
    by_name = {promise.name: promise for promise in promises("importance")}
    assert check(Remembers, by_name["while-training-resumes"]).status == "kept"
    assert check(CRITERIA["while-training-runs"][0], by_name["while-training-finite"]).status == "not applicable"
    with pytest.raises(BrokenPromise, match="while-training-touches"):
        check(CRITERIA["while-training-touches"][0], by_name["while-training-touches"])
