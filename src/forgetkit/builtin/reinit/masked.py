"""The reinitialisation of LURE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from forgetkit.builtin.reinit._touched import written_by
from forgetkit.contracts import Change, Origin, ReinitContext, Rounding, Scope, Ties, Which, Writes


@dataclass(frozen=True)
class Masked:
    """Give the least important entries fresh values.

    Formula: θ ← M ⊙ θ + (1 − M) ⊙ ξ, with M = 0 for fraction · N of the N scored entries, by one threshold over all of
    them, and ξ fresh.

    fraction: share of the scored entries that is selected, 0 (none) to 1 (all).
    which: select the lowest scores, or the highest (a control: reset the most important entries).
    ties: of the entries that tie at the threshold, select as many as needed at random, as many in the order of the
        parameters (stable), or all of them, which may be far more than the fraction (drop).
    round: fraction · N down to a whole number, or up.
    params: parameters whose selected entries are reset; others keep their values.
    fresh: where ξ comes from: the module's own initial distribution (original), torch's reset_parameters
        (layer-default), U(±1/√fan_in) (uniform), the value at the run's start (rewind), or zero.
    norm: what an entry of a normalisation layer becomes: its initial 1 or 0 (ones), itself (skip), U(−1, 1) (uniform).

    Cost: that of the criterion, and less than one training step.

    Source: equation 3 of Ramkumar et al., 2023.
    """

    fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    which: Which = "lowest"
    ties: Ties = "random"
    round: Rounding = "down"
    params: Scope = "all"
    fresh: Origin = "original"
    norm: Literal["ones", "skip", "uniform"] = "ones"

    needs_scores: ClassVar[bool] = True

    @property
    def touches(self) -> frozenset[Writes]:
        """The kinds of tensors that it writes."""
        touched = written_by(self.params)
        return touched - {"norm"} if self.norm == "skip" else touched

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose one change per scored parameter that may be reset."""
        masks = context.select(self.fraction, which=self.which, ties=self.ties, rounding=self.round)
        open_names, norms = set(context.names(self.params)), set(context.names("norm"))
        for name, mask in masks.items():
            if name not in open_names or (name in norms and self.norm == "skip"):
                continue
            origin: Origin = self.fresh
            if name in norms:
                origin = "original" if self.norm == "ones" else "uniform"
            yield Change(name, mask, context.fresh(name, origin))
