"""Importance criteria for forgetkit, beside the built-in ones."""

from collections.abc import Mapping
from typing import Any

import forgetkit
from forgetkit_saliency.gradient import Gradient


@forgetkit.hookimpl
def forgetkit_importance() -> Mapping[str, type[Any]]:
    """The criteria of this package."""
    return {"gradient": Gradient}
