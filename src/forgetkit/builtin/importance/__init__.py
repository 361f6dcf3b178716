"""Importance criteria."""

from collections.abc import Mapping

from forgetkit.builtin.importance.fisher import Fisher
from forgetkit.builtin.importance.magnitude import Magnitude
from forgetkit.builtin.importance.random import Random
from forgetkit.builtin.importance.snip import Snip
from forgetkit.contracts import Importance
from forgetkit.registry.hookspecs import hookimpl


@hookimpl
def forgetkit_importance() -> Mapping[str, type[Importance]]:
    """Return the four criteria of the paper's section A.2."""
    return {"fisher": Fisher, "magnitude": Magnitude, "random": Random, "snip": Snip}
