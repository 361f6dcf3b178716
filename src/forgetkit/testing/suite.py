"""Promises as cases of a pytest suite."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from forgetkit.testing.examination import NONE_EXPECTED, promises, require_known
from forgetkit.testing.promise import BrokenPromise


def parametrize(kind: str, components: Iterable[Any], *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> Any:
    """A decorator: the test runs once for each component and promise of ``kind``, which it takes as arguments.

    The test's body is ``forgetkit.testing.check(component, promise)``. ``expected_failures`` are marked as such,
    strictly; those that a class names itself need no mark. pytest is imported here and nowhere else.
    """
    import pytest

    require_known(kind, expected_failures)
    cases = []
    for component in components:
        for promise in promises(kind):
            excuse = expected_failures.get(promise.name)
            marks = () if excuse is None else pytest.mark.xfail(raises=BrokenPromise, reason=excuse, strict=True)
            cases.append(pytest.param(component, promise, id=f"{_word(component)}-{promise.name}", marks=marks))
    return pytest.mark.parametrize(("component", "promise"), cases)


def _word(component: Any) -> str:
    if isinstance(component, str):
        return component
    return component.__name__ if inspect.isclass(component) else repr(component)
