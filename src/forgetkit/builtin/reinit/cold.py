"""Cold start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from forgetkit.contracts import Change, Origin, ReinitContext, Writes


@dataclass(frozen=True)
class Cold:
    """Cold start: the whole network anew, running statistics included.

    Formula: θ ← ξ for every entry.

    draw: a new draw each time, or the same network each time, the one that the run began with.

    Cost: none, but what training from the start takes.

    Source: "Random init." of Ramkumar et al., 2023, whose code takes the same network each time.
    """

    draw: Literal["new", "same"] = "new"

    touches: ClassVar[frozenset[Writes]] = frozenset({"weights", "biases", "norm", "stats"})

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Every trainable parameter and every buffer that is drawn together with them."""
        origin: Origin = "original" if self.draw == "new" else "rewind"
        for name in (*context.targets, *context.buffers):
            yield Change(name, None, context.fresh(name, origin))
