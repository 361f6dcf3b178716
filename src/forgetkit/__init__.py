"""forgetkit: train networks on data that keeps arriving, and make them forget on purpose.

The public names are loaded when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forgetkit._version import __version__
from forgetkit.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from forgetkit import testing as testing
    from forgetkit.api import ablate, analyze, attach, check_components, evidence, run, score, select, unlearn
    from forgetkit.results.ablation import Ablation
    from forgetkit.results.run_result import RunResult
    from forgetkit.unlearning import ResetPolicy, Scoring

_HOMES = {
    **dict.fromkeys(
        ("ablate", "analyze", "attach", "check_components", "evidence", "run", "score", "select", "unlearn"), "api"
    ),
    "Ablation": "results.ablation",
    "ResetPolicy": "unlearning",
    "RunResult": "results.run_result",
    "Scoring": "unlearning",
}

__all__ = [
    "Ablation",
    "ResetPolicy",
    "RunResult",
    "Scoring",
    "__version__",
    "ablate",
    "analyze",
    "attach",
    "check_components",
    "evidence",
    "hookimpl",
    "run",
    "score",
    "select",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name == "testing":
        return import_module("forgetkit.testing")
    if name not in _HOMES:
        raise AttributeError(f"module 'forgetkit' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
