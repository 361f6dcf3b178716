"""What all tests share, those of the plugin packages too: a process that wastes no time.

Torch takes one thread, for the networks are small and the workers of pytest share the cores; tests about threads set
them, or start a process of its own. Files are not synced: what a loss of power leaves is simulated. A dry run times a
single step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported and counts the cores
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # for child processes: see below

import hypothesis
import pytest

from forgetkit.engine import dry_run

# Tests write a module anew within a second, and Python would take its stale byte code for it.
sys.dont_write_bytecode = True
# How long an example takes on a shared machine says nothing.
hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared")


@pytest.fixture(autouse=True, scope="session")
def hasty() -> Iterator[None]:
    """Nothing waits for the disk or for a better estimate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(dry_run, "_SECONDS", 0.0)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever has one of these fixtures starts processes."""
    for item in items:
        if {"nursery", "spawn"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.children)
