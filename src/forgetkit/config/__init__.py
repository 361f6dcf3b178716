"""What a run is made of: options from four layers, resolved into components.

Defaults < preset < TOML file < command line. The resolved configuration spells every choice out, so that
two runs of equal configuration are the same run.

The names are loaded when they are first used, because the command line reads presets without them.
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
    from forgetkit.config.plan import (
        AUTO_OPTIONS,
        OVERRIDABLE,
        Plan,
        code_of,
        finished_plan,
        recorded_options,
        require_used,
        resolve,
        resumed_options,
    )

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
    "recorded_options",
    "require_used",
    "resolve",
    "resumed_options",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("fields", "layers", "plan"):
            found = vars(import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
