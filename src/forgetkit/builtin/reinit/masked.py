"""The reinitialisation of LURE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from forgetkit.contracts import Change, ReinitContext


@dataclass(frozen=True)
class Masked:
    """Give the least important entries fresh values: θ ← M ⊙ θ + (1 − M) ⊙ ξ.

    Exactly floor(fraction · N) of the N scored entries, chosen by one threshold over all parameters;
    ties at the threshold are drawn at random. ξ is drawn from the distribution that the entry's own
    module starts from.

    fraction: share of the entries that is reset, 0 (none) to 1 (all).

    Source: equation 3 of Ramkumar et al., 2023. Cost: beside the criterion's, less than one epoch's step.
    """

    fraction: Annotated[float, Field(ge=0, le=1)] = 0.2

    needs_scores: ClassVar[bool] = True

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """One change per scored parameter."""
        for name, mask in context.lowest(self.fraction).items():
            yield Change(name, mask, context.fresh(name))
