"""What criteria and reset methods share: the networks, and the promises they make if they are interventions too."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from forgetkit.contracts import Intervention, Writes
from forgetkit.testing import comparing, interventions, networks
from forgetkit.testing.case import KitCase
from forgetkit.testing.interventions import InterventionCase
from forgetkit.testing.promise import NotApplicable, Row
from forgetkit.testing.rows import declares

PREFIX = "while-training-"
"""Precedes the name of a promise of interventions in the tables of other kinds."""


@dataclass(frozen=True, eq=False)
class WatchingCase(KitCase):
    """A criterion or reset method under examination; it may be an intervention as well."""

    def usual_input(self) -> networks.NetworkFixture:
        """Return a small convolutional network."""
        return networks.plain()

    @cached_property
    def several(self) -> tuple[Any, ...]:
        """The records on networks with and without normalisation and dead units."""
        return self.usual, *(self.borrowed(network) for network in (networks.normalised, networks.dead_units))

    @cached_property
    def watching(self) -> InterventionCase:
        """The component as an intervention."""
        if not isinstance(self.component, Intervention):
            raise NotApplicable("it is no Intervention, so it takes no part in the training")
        return InterventionCase(self.component, self.written)

    def written(self) -> Set[Writes]:
        """Return what it writes to outside the training."""
        return frozenset()

    def require_comparable(self, one: Any, other: Any) -> None:
        """Raise ``NotApplicable`` if two trainings left different memories."""
        if not comparing.same_bits(one.memory, other.memory):
            raise NotApplicable(f"the promise '{PREFIX}deterministic' is broken")


def _asks_previous(case: WatchingCase) -> bool:
    asked = "previous" in case.usual.requests.references
    if not asked and getattr(case.component, "needs_previous", False) and isinstance(case.component, Intervention):
        return "previous" in case.watching.usual.requests.references
    return asked


def needs_data(text: str, default: bool) -> Row:
    """The row about drawing samples; ``default`` is what counts without the flag."""
    return declares(
        "needs_data",
        "draws samples",
        text,
        lambda case: any(record.requests.samples for record in case.several),
        purpose="options about samples act",
        default=default,
    )


NEEDS_PREVIOUS = declares(
    "needs_previous",
    "asks reference('previous')",
    "The class asks for the weights of the previous mega-batch if and only if it says `needs_previous = True`.",
    _asks_previous,
    purpose="the host keeps those weights",
)


def _while_training(promise: Row) -> Row:
    return Row(PREFIX + promise.name, promise.text, lambda case: promise.verify(case.watching), PREFIX + promise.needs)


WHILE_TRAINING = tuple(_while_training(promise) for promise in interventions.PROMISES)
"""The promises of interventions, for a component of another kind."""
