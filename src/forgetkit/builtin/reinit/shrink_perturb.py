"""Shrink and perturb."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.builtin.reinit._touched import written_by
from forgetkit.contracts import Change, ReinitContext, Scope, Writes


@dataclass(frozen=True)
class ShrinkPerturb:
    """Shrink every parameter and add a small multiple of fresh values.

    Formula: θ ← shrink · θ + noise · ξ.

    shrink: factor on the old value, 0 to 1.
    noise: factor on the fresh draw, 0 or more.
    draw: where ξ comes from: the module's own initial distribution (original; a norm layer's scale is 1 there, its
        shift 0), torch's reset_parameters (layer-default), U(±1/√fan_in) (uniform), the values at the run's start
        (rewind), or N(0, 1) (gaussian).
    params: which parameters are shrunk and perturbed.
    stats: keep running statistics, or reset them to their initial values.

    Cost: none.

    Source: Ash and Adams, 2020 (there 0.4 and 0.1); defaults as in Ramkumar et al., 2023.
    """

    shrink: Annotated[float, Field(ge=0, le=1)] = 0.4
    noise: Annotated[float, Field(ge=0)] = 0.001
    draw: Literal["original", "layer-default", "uniform", "rewind", "gaussian"] = "original"
    params: Scope = "all"
    stats: Literal["keep", "reset"] = "keep"

    @property
    def touches(self) -> frozenset[Writes]:
        """The kinds of tensors that it writes."""
        return written_by(self.params) | ({"stats"} if self.stats == "reset" else set())

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose changes to each trainable parameter in scope, and with ``stats=reset`` to running statistics."""
        for name in context.names(self.params):
            old = context.targets[name]
            yield Change(name, None, self.shrink * old + self.noise * self._drawn(context, name, old))
        if self.stats == "reset":
            for name in context.buffers:
                yield Change(name, None, context.fresh(name))

    def _drawn(self, context: ReinitContext, name: str, old: Tensor) -> Tensor:
        if self.draw == "gaussian":
            return torch.randn(old.shape, generator=context.rng(name)).to(device=old.device, dtype=old.dtype)
        return context.fresh(name, self.draw)
