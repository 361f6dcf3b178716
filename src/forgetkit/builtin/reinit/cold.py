"""Cold start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from forgetkit.contracts import Change, ReinitContext


@dataclass(frozen=True)
class Cold:
    """Cold start: draw the whole network anew, running statistics and optimizer state included.

    "Random init." of Ramkumar et al., 2023; a new draw each time.
    """

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Every trainable parameter and every buffer that is drawn together with them."""
        for name in (*context.targets, *context.buffers):
            yield Change(name, None, context.fresh(name))
