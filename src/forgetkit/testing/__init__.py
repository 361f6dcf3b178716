"""The conformance kit: tests whether a component keeps the contract of its kind.

The public names are imported on first use, so that a worker of an executor imports the kit's tasks without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forgetkit.testing.checks import (
        check_analysis,
        check_dataset,
        check_executor,
        check_importance,
        check_intervention,
        check_metric,
        check_model,
        check_observer,
        check_reinit,
        check_replay,
    )
    from forgetkit.testing.examination import check, examine, promises
    from forgetkit.testing.promise import BrokenPromise, Promise, Verdict
    from forgetkit.testing.suite import parametrize

__all__ = [
    "BrokenPromise",
    "Promise",
    "Verdict",
    "check",
    "check_analysis",
    "check_dataset",
    "check_executor",
    "check_importance",
    "check_intervention",
    "check_metric",
    "check_model",
    "check_observer",
    "check_reinit",
    "check_replay",
    "examine",
    "parametrize",
    "promises",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("checks", "examination", "promise", "suite"):
            found = vars(import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
