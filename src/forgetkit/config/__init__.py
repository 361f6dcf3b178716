"""The options of a run: defaults < preset < TOML file < command line, resolved into a plan.

The resolved configuration has every option, so two runs with equal configurations are the same run. Names load on first
use, because the command line reads presets without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forgetkit.config.fields import (
        KIND_OF,
        METHODS,
        NOT_PROTOCOL,
        NOT_RESULTS,
        REPEATABLE,
        RunConfig,
        flag,
        name_of,
    )
    from forgetkit.config.layers import canonical_keys, merge_layers, parse_assignments, read_options_file, read_toml
    from forgetkit.config.plan import AUTO_OPTIONS, Plan, require_used, resolve
    from forgetkit.config.recorded import OVERRIDABLE, code_of, finished_plan, resumed_options

__all__ = [
    "AUTO_OPTIONS",
    "KIND_OF",
    "METHODS",
    "NOT_PROTOCOL",
    "NOT_RESULTS",
    "OVERRIDABLE",
    "REPEATABLE",
    "Plan",
    "RunConfig",
    "canonical_keys",
    "code_of",
    "finished_plan",
    "flag",
    "merge_layers",
    "name_of",
    "parse_assignments",
    "read_options_file",
    "read_toml",
    "require_used",
    "resolve",
    "resumed_options",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("fields", "layers", "plan", "recorded"):
            found = vars(import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
