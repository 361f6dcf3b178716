"""RIFLE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from forgetkit.contracts import Change, Origin, ReinitContext, Writes
from forgetkit.errors import NoMatchError
from forgetkit.unlearning import head_of


@dataclass(frozen=True)
class Rifle:
    """RIFLE: redraw the head, weight and bias.

    Formula: θ ← ξ in the head, the fully connected layer that executes last.

    fresh: where ξ comes from; see masked.

    Cost: none.

    Source: Li et al., 2020; as a baseline in Ramkumar et al., 2023, once per mega-batch.
    """

    fresh: Origin = "original"

    touches: ClassVar[frozenset[Writes]] = frozenset({"weights", "biases"})

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose fresh values for the head's weight and bias."""
        head = head_of(context.layers)
        if head is None:
            raise NoMatchError("rifle: this model has no fully connected layer, so it has no head: use another method")
        for name in head.parameters:
            yield Change(name, None, context.fresh(name, self.fresh))
