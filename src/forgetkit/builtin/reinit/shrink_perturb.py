"""Shrink and perturb."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from forgetkit.contracts import Change, ReinitContext


@dataclass(frozen=True)
class ShrinkPerturb:
    """Shrink every parameter and add a little of a fresh draw: θ ← shrink · θ + noise · ξ.

    ξ is drawn from the distribution that each module starts from (a norm layer's scale is 1 there,
    its shift 0). Running statistics are kept.

    shrink: factor on the old value, 0 to 1.
    noise: factor on the fresh draw, 0 or more.

    Source: Ash and Adams, 2020 (there 0.4 and 0.1); defaults as in Ramkumar et al., 2023. Cost: none.
    """

    shrink: Annotated[float, Field(ge=0, le=1)] = 0.4
    noise: Annotated[float, Field(ge=0)] = 0.001

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Every trainable parameter."""
        for name, old in context.targets.items():
            yield Change(name, None, self.shrink * old + self.noise * context.fresh(name))
