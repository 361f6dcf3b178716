"""What the tests of the kit share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from forgetkit.testing import Verdict


def cases(broken: Mapping[str, tuple[type, ...]]) -> list[object]:
    return [
        pytest.param(promise, component, id=f"{promise}-{component.__name__}")
        for promise, components in broken.items()
        for component in components
    ]


def broken_in(verdicts: Iterable[Verdict]) -> list[str]:
    return [verdict.promise.name for verdict in verdicts if verdict.status == "broken"]


OF_EVERY_KIND = ("summary", "frozen-dataclass", "described", "defaults", "spelling", "pickles")
"""Broken among the criteria, once for all kinds."""
