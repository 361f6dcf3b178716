"""Cold start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from forgetkit.contracts import Change, Origin, ReinitContext, Writes


@dataclass(frozen=True)
class Cold:
    """Cold start: redraw the whole network, and reset running statistics.

    Formula: θ ← ξ for every entry.

    draw: new values each time, or the same initial network each time.

    Cost: none, but training starts from scratch.

    Source: "Random init." of Ramkumar et al., 2023, whose code uses the same network each time.
    """

    draw: Literal["new", "same"] = "new"

    touches: ClassVar[frozenset[Writes]] = frozenset({"weights", "biases", "norm", "stats"})

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose fresh values for each trainable parameter and buffer."""
        origin: Origin = "original" if self.draw == "new" else "rewind"
        for name in (*context.targets, *context.buffers):
            yield Change(name, None, context.fresh(name, origin))
