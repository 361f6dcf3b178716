"""What a component of another kind promises that is an intervention too: all that interventions do."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from forgetkit.contracts import Intervention, Writes
from forgetkit.testing import comparing, interventions
from forgetkit.testing.common import KitCase
from forgetkit.testing.interventions import InterventionCase
from forgetkit.testing.promise import NotApplicable, Promise

PREFIX = "while-training-"
"""Before the name of a promise of interventions, where a component of another kind makes it."""


@dataclass(frozen=True, eq=False)
class WatchingCase(KitCase):
    """A component under examination that may be an intervention beside its own kind."""

    @cached_property
    def watching(self) -> InterventionCase:
        """The component as an intervention."""
        if not isinstance(self.component, Intervention):
            raise NotApplicable("it is no Intervention, so it has no part in the training")
        return InterventionCase(self.component, self.touched)

    def touched(self) -> Set[Writes]:
        """What it writes to outside the training."""
        return frozenset()


def require_same_memory(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """:class:`NotApplicable` where two trainings have left something else behind."""
    if not comparing.same_bits(one, other):
        raise NotApplicable(f"the promise '{PREFIX}deterministic' is broken")


def promises(kind: str) -> tuple[Promise, ...]:
    """Those of interventions, each under a name that tells it apart from that of ``kind``."""
    return tuple(
        replace(
            promise,
            kind=kind,
            name=PREFIX + promise.name,
            verify=partial(_verify, promise),
            needs=PREFIX + promise.needs,
        )
        for promise in interventions.promises()
    )


def _verify(promise: Promise, case: WatchingCase) -> None:
    promise.verify(case.watching)
