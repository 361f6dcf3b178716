"""Knowledge evolution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Change, Origin, ReinitContext, Scope, Writes
from forgetkit.errors import NoMatchError


@dataclass(frozen=True)
class KnowledgeEvolution:
    """Keep a fixed part of the network, the fit hypothesis, and redraw the rest each time.

    Formula: θ ← M ⊙ θ + (1 − M) ⊙ ξ in all layers that do not normalise, with M the same at each forgetting of a run.

    mask: what M keeps.
        wels: ⌈split · n⌉ of the n entries of each parameter, drawn once;
        bernoulli: each entry with the probability split, drawn once, as the released code does for wels;
        kels: weights and biases between the first ⌈split · n⌉ of the n units of each layer: a slimmer network.
    split: fraction that is kept.
    params: which parameters are redrawn; others stay whole, as biases do in the released code (conv-linear).
    fresh: where ξ comes from: torch's reset_parameters (layer-default), the module's own initial distribution
        (original), U(±1/√fan_in) (uniform, with a fan_in of 1 for biases), the value at the run's start (rewind), or
        zero.

    Cost: none.

    Source: Taha et al., 2021.
    """

    mask: Literal["wels", "bernoulli", "kels"] = "wels"
    split: Annotated[float, Field(gt=0, lt=1)] = 0.8
    params: Scope = "all"
    fresh: Origin = "layer-default"

    @property
    def touches(self) -> frozenset[Writes]:
        """The kinds of tensors that it writes."""
        return frozenset({"weights", "biases"} if self.params == "all" else {"weights"})

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose a change for each parameter that is not kept whole."""
        open_names = set(context.names(self.params)) - set(context.names("norm"))
        found = self._beyond(context) if self.mask == "kels" else self._scattered(context)
        masks = {name: redrawn for name, redrawn in found if name in open_names and bool(redrawn.any())}
        if not masks:
            raise NoMatchError(f"knowledge-evolution: mask={self.mask}, split={self.split} keeps all of this network")
        for name, redrawn in masks.items():
            yield Change(name, redrawn, context.fresh(name, self.fresh))

    def _scattered(self, context: ReinitContext) -> Iterator[tuple[str, Tensor]]:
        """The redrawn entries of each parameter, from a random stream that is the same throughout the run."""
        for name in context.names("all"):
            old, rng = context.targets[name], context.rng(name, lasting=True)
            if self.mask == "bernoulli":
                redrawn = torch.rand(old.numel(), generator=rng) >= self.split
            else:
                order = torch.randperm(old.numel(), generator=rng)
                redrawn = torch.zeros(old.numel(), dtype=torch.bool)
                redrawn[order[self._kept(old.numel()) :]] = True
            yield name, redrawn.view(old.shape).to(old.device)

    def _beyond(self, context: ReinitContext) -> Iterator[tuple[str, Tensor]]:
        """The entries that compute or read a unit beyond the first ones, by parameter."""
        found: dict[str, Tensor] = {}
        for group in context.units:
            beyond = torch.arange(group.size) >= self._kept(group.size)
            for part in (*group.incoming, *group.bias, *group.outgoing) if bool(beyond.any()) else ():
                mask = part.mask(context.targets[part.name], beyond.to(context.targets[part.name].device))
                found[part.name] = found[part.name] | mask if part.name in found else mask
        yield from found.items()

    def _kept(self, count: int) -> int:
        return math.ceil(Fraction(str(self.split)) * count)  # exact: 0.28 of 25 is 7, not 8
