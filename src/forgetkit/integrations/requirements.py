"""The packages that an integration needs: imported, or named in one line with the extra that installs them."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def require(extra: str, *packages: str) -> Any:
    """Return the first of ``packages`` that is imported already, else the first that can be imported.

    Raises:
        ImportError: If none can be; one line that names the extra.
    """
    reasons = []
    for package in sorted(packages, key=lambda name: name not in sys.modules):
        try:
            return import_module(package)
        except ImportError as error:
            reasons.append(error)
    raise ImportError(
        f"forgetkit.integrations.{extra} cannot import {packages[0]} ({reasons[0]}): "
        f"python -m pip install 'forgetkit[{extra}]'"
    ) from reasons[0]
