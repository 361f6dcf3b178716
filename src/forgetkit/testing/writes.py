"""What a component writes to, beside what its class declares in ``touches``."""

from __future__ import annotations

from collections.abc import Set

from torch import nn

from forgetkit.contracts import Writes
from forgetkit.testing.promise import Failure
from forgetkit.unlearning import structure


def kind_of(model: nn.Module, name: str) -> Writes:
    """Return the name that ``touches`` has for a parameter or buffer."""
    owner = structure.owners(model)[name]
    tensor = getattr(owner.module, owner.local)
    if not isinstance(tensor, nn.Parameter):
        return "stats"
    if structure.kind_of(owner.module) == "norm":
        return "norm"
    return "weights" if tensor.ndim >= 2 else "biases"


def require_declared(written: Set[Writes], declared: Set[Writes], elsewhere: Set[Writes] | None = frozenset()) -> None:
    """Raise ``Failure`` unless ``touches`` declares exactly what is written.

    Args:
        written: What was seen to be written.
        declared: What ``touches`` says.
        elsewhere: What else may be declared; None if that is unknown, so that too much declared is no failure.
    """
    if written - declared:
        raise Failure(f"it writes to {', '.join(sorted(written - declared))}, which touches does not name")
    if elsewhere is not None and (idle := declared - written - elsewhere):
        raise Failure(
            f"touches names {', '.join(sorted(idle))}, which it writes to on no network with these options; remove it, "
            "or name in test_options options under which it does"
        )
