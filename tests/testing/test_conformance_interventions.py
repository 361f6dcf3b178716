"""Each broken intervention breaks one promise and no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from broken_interventions import BROKEN, Good, NoIntervention, Resetting
from conformance_shared import OF_EVERY_KIND, broken_in, cases

from forgetkit.contracts import Intervention, Moment
from forgetkit.testing import BrokenPromise, check_intervention, examine, promises


@pytest.mark.parametrize(("promise", "component"), cases(BROKEN))
def test_each_breaks_one_promise(promise: str, component: type) -> None:
    assert broken_in(examine("interventions", component)) == [promise]


def test_there_is_a_broken_one_for_each_promise() -> None:
    assert {*BROKEN, *OF_EVERY_KIND} == {promise.name for promise in promises("interventions")}


def test_a_sound_one_breaks_none() -> None:
    assert {verdict.status for verdict in examine("interventions", Good)} == {"kept"}


def test_the_class_is_to_be_inherited_from() -> None:
    with pytest.raises(BrokenPromise, match="frozen-dataclass"):
        check_intervention(NoIntervention)
    assert "runs" in broken_in(examine("interventions", NoIntervention))


def test_what_the_host_clears_under_a_mask_is_no_touch() -> None:
    verdicts = {verdict.promise.name: verdict for verdict in examine("interventions", Resetting)}
    assert verdicts["touches"].status == "kept", verdicts["touches"].reason


@dataclass(frozen=True)
class Seldom(Intervention):
    """Acts once in a thousand steps.

    every: how many steps.
    """

    every: int = 1000
    touches: ClassVar = frozenset({"weights"})

    def after_step(self, moment: Moment) -> None:
        steps = moment.state.setdefault("steps", torch.zeros((), dtype=torch.int64)).add_(1)
        if int(steps) % self.every == 0:
            with torch.no_grad():
                next(p for p in moment.model.parameters() if p.requires_grad and p.ndim > 1).mul_(0.9)


@dataclass(frozen=True)
class Sooner(Seldom):
    """Acts once in a thousand steps, and every third under examination."""

    examined_with: ClassVar = {"every": 3}


def test_a_class_says_with_which_options_it_can_be_seen_to_act() -> None:
    assert broken_in(examine("interventions", Seldom)) == ["touches"]
    assert broken_in(examine("interventions", Sooner)) == []
    assert broken_in(examine("interventions", Sooner(every=999))) == ["touches"]  # one who says otherwise means it
