"""RIFLE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from forgetkit.contracts import Change, Origin, ReinitContext, Writes
from forgetkit.errors import NoMatchError, OptionError


@dataclass(frozen=True)
class Rifle:
    """RIFLE: redraw the head, weight and bias.

    Formula: θ ← ξ in the head, the layer from which the loss is computed with no other weighted layer in between.

    fresh: where ξ comes from; see masked.
    head: the layer to redraw, by the name of its module; all: every head of a network with several.

    Cost: none.

    Source: Li et al., 2020; as a baseline in Ramkumar et al., 2023, once per mega-batch.
    """

    fresh: Origin = "original"
    head: str = "all"

    touches: ClassVar[frozenset[Writes]] = frozenset({"weights", "biases"})

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose fresh values for the weights and biases of the heads."""
        layers = {layer.name: layer for layer in context.layers}
        heads = context.heads if self.head == "all" else [self.head]
        if self.head != "all" and self.head not in layers:
            found = ", ".join(context.heads)
            raise OptionError(f"rifle: this network has no layer '{self.head}'; its heads are {found}")
        if not heads:
            raise NoMatchError("rifle: the loss reads no layer with weights, so there is no head: use another method")
        names = dict.fromkeys(name for head in heads if head in layers for name in layers[head].parameters)
        for name in names:  # heads may share a tensor
            yield Change(name, None, context.fresh(name, self.fresh))
