"""Settings of all tests, including those of the plugin packages, that save time.

torch uses one thread: the networks are small and the pytest workers share the cores. Tests about threads run in child
processes. Files are not synced: tests simulate a loss of power. A dry run times a single step.
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

# Tests rewrite a module within a second, and Python would take the stale byte code.
sys.dont_write_bytecode = True
# Times on a shared machine mean nothing. `nox -s long` takes the profile of that name.
PROFILE = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("short", max_examples=40, **PROFILE)
hypothesis.settings.register_profile("long", max_examples=300, **PROFILE)
hypothesis.settings.load_profile("short")


@pytest.fixture(autouse=True, scope="session")
def fast_disk_and_estimates() -> Iterator[None]:
    """Skip syncs and long estimates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(dry_run, "_SECONDS", 0.0)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests whose fixtures start processes."""
    for item in items:
        if {"fork_server", "spawn"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.children)
