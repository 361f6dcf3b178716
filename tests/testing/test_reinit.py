"""Each broken method breaks one promise and no other; the built-ins keep them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from helpers.broken_reinit import BROKEN, Good
from helpers.conformance import OF_EVERY_KIND, broken_in, cases, own
from pydantic import Field

from forgetkit import testing
from forgetkit.contracts import ReinitContext
from forgetkit.testing import examine

SPECS: dict[str, dict[str, str]] = {
    "masked": {},
    "masked:fresh=uniform": {},
    "masked:fresh=rewind": {},
    "masked:round=up": {},
    "masked:ties=drop": {},
    "masked:norm=skip": {},
    "masked:params=conv-linear": {"exact-fraction": "of the selected entries only matrices and kernels are reset"},
    "llf": {},
    "llf:start=1": {},
    "llf:start=1,norm=reset": {},
    "rifle": {},
    "cold": {},
    "cold:draw=same": {},
    "shrink-perturb": {},
    "shrink-perturb:stats=reset": {},
    "none": {},
}


@pytest.mark.parametrize(("promise", "component"), cases(BROKEN))
def test_each_breaks_one_promise(promise: str, component: type) -> None:
    assert broken_in(examine("reinit", component)) == [promise]


def test_there_is_a_broken_one_for_each_promise() -> None:
    assert {*BROKEN, *OF_EVERY_KIND} == set(own("reinit"))


def test_a_sound_one_breaks_none() -> None:
    assert [verdict.promise.name for verdict in examine("reinit", Good) if verdict.status == "kept"] == own("reinit")


@dataclass(frozen=True)
class Some(Good):
    """Needs something to forget."""

    fraction: Annotated[float, Field(gt=0)] = 0.3

    def propose(self, context: ReinitContext) -> Iterable[Any]:
        if not self.fraction:
            raise RuntimeError("nobody can give this")
        return super().propose(context)


def test_a_fraction_that_nobody_can_give_is_not_tried() -> None:
    statuses = {verdict.promise.name: verdict.status for verdict in examine("reinit", Some)}
    assert statuses["exact-fraction"] == "kept"


@pytest.mark.parametrize("spec", SPECS)
def test_the_built_ins_keep_them_all(spec: str) -> None:
    testing.check_reinit(spec, expected_failures=SPECS[spec])
