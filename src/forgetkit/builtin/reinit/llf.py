"""Later-layer forgetting."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from forgetkit.contracts import Change, ReinitContext
from forgetkit.errors import NothingMatchedError


@dataclass(frozen=True)
class LaterLayers:
    """Later-layer forgetting (LLF): draw every layer from a depth on anew.

    Depth is counted in layers with weights, in the order in which they execute; the first
    ceil(depth · layers) are kept. At the default of 0.43 the reset starts with block 3 of 4 on
    ResNet-18, -34 and -50, as in the paper, and with the fourth of five stages on VGG16.

    depth: share of the weighted layers that is kept, from 0 up to but not including 1.
    norm: keep the scale, shift and running statistics of later normalisation layers, or reset them too.

    Source: Zhou et al., 2022; as a baseline in Ramkumar et al., 2023. Cost: none.
    """

    depth: Annotated[float, Field(ge=0, lt=1)] = 0.43
    norm: Literal["keep", "reset"] = "keep"

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """The parameters of each later layer, and with ``norm=reset`` its running statistics."""
        weighted = [at for at, layer in enumerate(context.layers) if layer.kind == "weight"]
        start = math.ceil(Fraction(str(self.depth)) * len(weighted))  # exact: 0.28 of 25 layers is 7, not 8
        if start >= len(weighted):
            raise NothingMatchedError(
                f"llf: depth={self.depth} keeps all {len(weighted)} weighted layers of this model; choose a smaller one"
            )
        # What a later layer shares with a kept one is kept, and what two later ones share is drawn once.
        settled = {name for layer in context.layers[: weighted[start]] for name in layer.parameters}
        for layer in context.layers[weighted[start] :]:
            if layer.kind == "norm" and self.norm == "keep":
                continue
            for name in (*layer.parameters, *layer.buffers):
                if name not in settled:
                    settled.add(name)
                    yield Change(name, None, context.fresh(name))
