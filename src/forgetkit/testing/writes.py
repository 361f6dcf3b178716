"""What is written to, beside what is said to be."""

from __future__ import annotations

from collections.abc import Set

from torch import nn

from forgetkit.contracts import Writes
from forgetkit.testing.promise import Failure
from forgetkit.unlearning import structure


def kind_of(model: nn.Module, name: str) -> Writes:
    """What a parameter or buffer counts as among the things that are touched."""
    owner = structure.owners(model)[name]
    tensor = getattr(owner.module, owner.local)
    if not isinstance(tensor, nn.Parameter):
        return "stats"
    if structure.kind_of(owner.module) == "norm":
        return "norm"
    return "weights" if tensor.ndim >= 2 else "biases"


def require_no_more(touched: Set[Writes], declared: Set[Writes]) -> None:
    """:class:`Failure` where something is written to that is not said."""
    if touched - declared:
        raise Failure(f"it writes to {_listed(touched - declared)}, which touches does not name")


def require_no_less(touched: Set[Writes], declared: Set[Writes]) -> None:
    """:class:`Failure` where something is said that is not written to."""
    if declared - touched:
        raise Failure(
            f"touches names {_listed(declared - touched)}, which it writes to on no network with these options; where "
            "it acts too seldom to be seen, name other options in test_options"
        )


def _listed(kinds: Set[Writes]) -> str:
    return ", ".join(sorted(kinds))
