"""Packages that a test needs and an environment may lack."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


def import_or_skip(name: str) -> Any:
    """Import a package, whose own warnings are no concern of ours, or skip the tests with the reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)
