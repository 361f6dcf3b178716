"""Each broken strategy breaks one promise and no other; the built-ins keep them all."""

from __future__ import annotations

import pytest
from helpers.broken_replay import BROKEN, Good
from helpers.conformance import OF_EVERY_KIND, broken_in, cases

from forgetkit import testing
from forgetkit.testing import examine, promises

SPECS = ["buffer", "buffer:size=7", "buffer:rule=per-mega-batch", "buffer:rule=lure", "full", "last", "none"]


@pytest.mark.parametrize(("promise", "component"), cases(BROKEN))
def test_each_breaks_one_promise(promise: str, component: type) -> None:
    assert broken_in(examine("replay", component)) == [promise]


def test_there_is_a_broken_one_for_each_promise() -> None:
    assert {*BROKEN, *OF_EVERY_KIND} == {promise.name for promise in promises("replay")}


def test_a_sound_one_breaks_none() -> None:
    assert {verdict.status for verdict in examine("replay", Good)} == {"kept"}


@pytest.mark.parametrize("spec", SPECS)
def test_the_built_ins_keep_them_all(spec: str) -> None:
    testing.check_replay(spec)


def test_a_reservoir_is_looked_at_as_one() -> None:
    for spec, expected in (("buffer", "kept"), ("buffer:rule=lure", "not applicable")):
        status = {verdict.promise.name: verdict.status for verdict in examine("replay", spec)}
        assert status["uniform"] == status["capacity"] == expected
