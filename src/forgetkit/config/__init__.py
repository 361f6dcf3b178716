"""What a run is made of: options from four layers, resolved into components.

Defaults < preset < TOML file < command line. The resolved configuration spells every choice out, so that
two runs of equal configuration are the same run.
"""

from forgetkit.config.fields import KIND_OF, METHODS, NOT_PROTOCOL, NOT_RESULTS, SEVERAL, RunConfig, flag, name_of
from forgetkit.config.layers import canonical, content_of, layered, read_toml, settings
from forgetkit.config.plan import (
    LEFT_OPEN,
    LOOKED_AT,
    Plan,
    code_of,
    finished,
    recorded,
    require_used,
    resolve,
    resumed,
)

__all__ = [
    "KIND_OF",
    "LEFT_OPEN",
    "LOOKED_AT",
    "METHODS",
    "NOT_PROTOCOL",
    "NOT_RESULTS",
    "SEVERAL",
    "Plan",
    "RunConfig",
    "canonical",
    "code_of",
    "content_of",
    "finished",
    "flag",
    "layered",
    "name_of",
    "read_toml",
    "recorded",
    "require_used",
    "resolve",
    "resumed",
    "settings",
]
