"""Questions to a trained model, one per file."""

from collections.abc import Mapping

from forgetkit.builtin.analyses.attack import Attack
from forgetkit.builtin.analyses.calibration import Calibration
from forgetkit.builtin.analyses.churn import Churn
from forgetkit.builtin.analyses.corruption import Corruption
from forgetkit.builtin.analyses.flatness import Flatness
from forgetkit.builtin.analyses.overlap import Overlap
from forgetkit.builtin.analyses.plasticity import Plasticity
from forgetkit.builtin.analyses.redundancy import Redundancy
from forgetkit.builtin.analyses.sensitivity import Sensitivity
from forgetkit.contracts import Analysis
from forgetkit.registry.hookspecs import hookimpl


@hookimpl
def forgetkit_analyses() -> Mapping[str, type[Analysis]]:
    """Those of the paper's section 6 and appendix, and those that practice asks."""
    return {
        "attack": Attack,
        "calibration": Calibration,
        "churn": Churn,
        "corruption": Corruption,
        "flatness": Flatness,
        "overlap": Overlap,
        "plasticity": Plasticity,
        "redundancy": Redundancy,
        "sensitivity": Sensitivity,
    }
