"""One stage for all tests of this folder that damage runs: it takes seconds to set."""

from __future__ import annotations

import os

import corruption
import pytest


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Runs, ablations and data, and what each command makes of them; the current folder stays what it was."""
    before, cache = os.getcwd(), os.environ.get("FORGETKIT_CACHE")  # noqa: PTH109
    try:
        with corruption.without_pictures():
            return corruption.Stage.build(tmp_path_factory.mktemp("stage").resolve())
    finally:
        os.chdir(before)
        os.environ.pop("FORGETKIT_CACHE")
        if cache is not None:
            os.environ["FORGETKIT_CACHE"] = cache


@pytest.fixture
def stage(undisturbed, monkeypatch):
    """The same, in a current folder with a fresh copy of all that."""
    monkeypatch.setenv("FORGETKIT_CACHE", str(undisturbed.place.here / "cache"))
    undisturbed.place.fresh()
    monkeypatch.chdir(undisturbed.place.here)
    with corruption.without_pictures():
        yield undisturbed
