"""Importance criteria for forgetkit, beside the built-in ones."""

from collections.abc import Mapping

import forgetkit
from forgetkit.contracts import Importance
from forgetkit_saliency.fisher_obd import FisherObd
from forgetkit_saliency.gradient import Gradient
from forgetkit_saliency.grasp import Grasp
from forgetkit_saliency.gxd import Gxd
from forgetkit_saliency.hessian import Hessian
from forgetkit_saliency.lamp import Lamp
from forgetkit_saliency.mas import Mas
from forgetkit_saliency.movement import Movement
from forgetkit_saliency.path_integral import PathIntegral
from forgetkit_saliency.snip_sample import SnipSample
from forgetkit_saliency.synflow import Synflow
from forgetkit_saliency.taylor import Taylor
from forgetkit_saliency.wanda import Wanda


@forgetkit.hookimpl
def forgetkit_importance() -> Mapping[str, type[Importance]]:
    """The criteria of this package."""
    return {
        "fisher-obd": FisherObd,
        "gradient": Gradient,
        "grasp": Grasp,
        "gxd": Gxd,
        "hessian": Hessian,
        "lamp": Lamp,
        "mas": Mas,
        "movement": Movement,
        "path-integral": PathIntegral,
        "snip-sample": SnipSample,
        "synflow": Synflow,
        "taylor": Taylor,
        "wanda": Wanda,
    }
