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
    from forgetkit.api import ablate, analyze, attach, evidence, run, score, select, unlearn
    from forgetkit.unlearning import ResetPolicy, Scoring

__all__ = [
    "ResetPolicy",
    "Scoring",
    "__version__",
    "ablate",
    "analyze",
    "attach",
    "evidence",
    "hookimpl",
    "run",
    "score",
    "select",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name in ("ablate", "analyze", "attach", "evidence", "run", "score", "select", "unlearn"):
        return getattr(import_module("forgetkit.api"), name)
    if name in ("ResetPolicy", "Scoring"):
        return getattr(import_module("forgetkit.unlearning"), name)
    if name == "testing":
        return import_module("forgetkit.testing")
    raise AttributeError(f"module 'forgetkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
