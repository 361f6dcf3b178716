"""Shared by the tests of the conformance kit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from forgetkit.testing import Verdict, promises


def cases(broken: Mapping[str, tuple[type, ...]]) -> list[object]:
    return [
        pytest.param(promise, component, id=f"{promise}-{component.__name__}")
        for promise, components in broken.items()
        for component in components
    ]


def own(kind: str) -> list[str]:
    """The promises of ``kind`` without those of interventions."""
    return [promise.name for promise in promises(kind) if not promise.name.startswith("while-training-")]


def broken_in(verdicts: Iterable[Verdict]) -> list[str]:
    return [verdict.promise.name for verdict in verdicts if verdict.status == "broken"]


OF_EVERY_KIND = ("summary", "frozen-dataclass", "described", "defaults", "spelling", "pickles")
"""Broken among the criteria, once for all kinds."""
