"""Warm start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from forgetkit.contracts import Change, ReinitContext, Writes


@dataclass(frozen=True)
class NoReset:
    """Warm start: reset nothing, and continue with the current weights.

    Formula: θ ← θ.

    Cost: none.

    Source: the baseline "BL" of Ramkumar et al., 2023.
    """

    changes_nothing: ClassVar[bool] = True
    touches: ClassVar[frozenset[Writes]] = frozenset()

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose no change."""
        return ()
