"""What a scope of parameters comes to, in the words that a component declares what it touches with."""

from __future__ import annotations

from forgetkit.contracts import Scope, Writes


def written_by(scope: Scope) -> frozenset[Writes]:
    """What is written to where the parameters in ``scope`` are."""
    if scope == "all":
        return frozenset({"weights", "biases", "norm"})
    return frozenset({"weights", "norm"} if scope == "weights" else {"weights"})
