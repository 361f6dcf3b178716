"""Translate a scope of parameters into what a component declares to write."""

from __future__ import annotations

from forgetkit.contracts import Scope, Writes


def written_by(scope: Scope) -> frozenset[Writes]:
    """The kinds of tensors in ``scope``, for ``touches``."""
    if scope == "all":
        return frozenset({"weights", "biases", "norm"})
    return frozenset({"weights", "norm"} if scope == "weights" else {"weights"})
