"""What is written to, beside what is said to be."""

from __future__ import annotations

from collections.abc import Set

from torch import nn

from forgetkit.contracts import Touch
from forgetkit.forgetting import anatomy
from forgetkit.testing.promise import Broken


def kind_of(model: nn.Module, name: str) -> Touch:
    """What a parameter or buffer counts as among the things that are touched."""
    owner = anatomy.owners(model)[name]
    tensor = getattr(owner.module, owner.local)
    if not isinstance(tensor, nn.Parameter):
        return "stats"
    if anatomy.kind_of(owner.module) == "norm":
        return "norm"
    return "weights" if tensor.ndim >= 2 else "biases"


def require_no_more(touched: Set[Touch], declared: Set[Touch]) -> None:
    """:class:`Broken` where something is written to that is not said."""
    if touched - declared:
        raise Broken(f"it writes to {_listed(touched - declared)}, which touches does not name")


def require_no_less(touched: Set[Touch], declared: Set[Touch]) -> None:
    """:class:`Broken` where something is said that is not written to."""
    if declared - touched:
        raise Broken(
            f"touches names {_listed(declared - touched)}, which it writes to on no network with these options; where "
            "it acts too seldom to be seen, name other options in examined_with"
        )


def _listed(kinds: Set[Touch]) -> str:
    return ", ".join(sorted(kinds))
