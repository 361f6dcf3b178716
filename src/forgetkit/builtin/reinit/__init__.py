"""Reinitialisation methods."""

from collections.abc import Mapping

from forgetkit.builtin.reinit.cold import Cold
from forgetkit.builtin.reinit.llf import LaterLayers
from forgetkit.builtin.reinit.masked import Masked
from forgetkit.builtin.reinit.none import NoReset
from forgetkit.builtin.reinit.rifle import Rifle
from forgetkit.builtin.reinit.shrink_perturb import ShrinkPerturb
from forgetkit.contracts import Reinit
from forgetkit.registry.hookspecs import hookimpl


@hookimpl
def forgetkit_reinit() -> Mapping[str, type[Reinit]]:
    """Return LURE's method and its rivals of the paper's section 4."""
    return {
        "cold": Cold,
        "llf": LaterLayers,
        "masked": Masked,
        "none": NoReset,
        "rifle": Rifle,
        "shrink-perturb": ShrinkPerturb,
    }
