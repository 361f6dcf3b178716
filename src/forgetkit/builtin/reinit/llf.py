"""Later-layer forgetting."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from forgetkit.builtin.reinit._touched import written_by
from forgetkit.contracts import Change, Origin, ReinitContext, Scope, Writes, parse_number
from forgetkit.errors import NoMatchError


def _start(given: Any) -> int | float:
    """Parse a whole number as a layer, a decimal number as a fraction."""
    value = parse_number(given)
    if isinstance(value, float) and 0 <= value < 1:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise PydanticCustomError(
        "start", "write the share that is kept, from 0.0 and below 1, or the layer to begin with, from 1"
    )


@dataclass(frozen=True)
class LaterLayers:
    """Later-layer forgetting (LLF): redraw every layer from a depth on.

    Formula: θ ← ξ in the layers after the first ⌈start · L⌉ of the L that have weights, in the order in which they
    execute.

    start: share of the weighted layers that is kept, from 0 up to but not including 1; or, as a whole number from 1,
        the weighted layer that the reset begins with. At 0.43 it begins with block 3 of 4 on ResNet-18, -34 and -50,
        as in the paper, and with the fourth of five stages on VGG16.
    norm: keep the scale, shift and running statistics of later normalisation layers, or reset them too.
    params: which parameters of the later layers are reset.
    fresh: where ξ comes from; see masked. Running statistics start at 0 and 1 whatever it says.

    Cost: none.

    Source: Zhou et al., 2022; as a baseline in Ramkumar et al., 2023.
    """

    start: Annotated[int | float, BeforeValidator(_start), "0 ≤ share < 1, or a layer ≥ 1"] = 0.43
    norm: Literal["keep", "reset"] = "keep"
    params: Scope = "all"
    fresh: Origin = "original"

    @property
    def touches(self) -> frozenset[Writes]:
        """What it writes to."""
        touched = written_by(self.params)
        return touched - {"norm"} if self.norm == "keep" else touched | {"stats"}

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose fresh values for each later layer, and with ``norm=reset`` its running statistics."""
        weighted = [at for at, layer in enumerate(context.layers) if layer.kind == "weight"]
        kept = self._kept(len(weighted))
        if kept >= len(weighted):
            raise NoMatchError(
                f"llf: start={self.start} keeps all {len(weighted)} weighted layers of this model; choose a smaller one"
            )
        within = {*context.names(self.params), *context.buffers}
        # A tensor that a kept layer shares is kept; one that two later layers share is drawn once.
        done = {name for layer in context.layers[: weighted[kept]] for name in layer.parameters}
        for layer in context.layers[weighted[kept] :]:
            if layer.kind == "norm" and self.norm == "keep":
                continue
            for name in (*layer.parameters, *layer.buffers):
                if name in within and name not in done:
                    done.add(name)
                    origin: Origin = "original" if name in context.buffers else self.fresh
                    yield Change(name, None, context.fresh(name, origin))

    def _kept(self, layers: int) -> int:
        """How many of the weighted layers stay."""
        if isinstance(self.start, int):
            return self.start - 1
        return math.ceil(Fraction(str(self.start)) * layers)  # exact: 0.28 of 25 layers is 7, not 8
