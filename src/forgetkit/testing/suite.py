"""Promises as test cases for pytest."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from forgetkit.testing.examination import NONE_EXPECTED, promises, require_known
from forgetkit.testing.promise import BrokenPromise


def parametrize(kind: str, components: Iterable[Any], *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> Any:
    """Return a pytest decorator that runs a test once for each component and promise.

    The test takes the arguments ``component`` and ``promise`` and calls ``check(component, promise)``.

    Args:
        kind: The kind of the components.
        components: Objects, classes whose options all have defaults, or SPECs.
        expected_failures: The promises that they are known to break, each with the reason. Their cases are marked
            ``xfail(strict=True)``; the ``expected_failures`` of a class need no mark.

    Returns:
        The decorator, a ``pytest.mark.parametrize``.

    Raises:
        OptionError: If the kind or a name in ``expected_failures`` is unknown.

    Example:
        >>> from forgetkit import testing
        >>> @testing.parametrize("metrics", ["cer", "test-accuracy"])
        ... def test_conformance(component, promise):
        ...     testing.check(component, promise)
    """
    import pytest

    require_known(kind, expected_failures)
    cases = []
    for component in components:
        for promise in promises(kind):
            excuse = expected_failures.get(promise.name)
            marks = () if excuse is None else pytest.mark.xfail(raises=BrokenPromise, reason=excuse, strict=True)
            cases.append(pytest.param(component, promise, id=f"{_test_id(component)}-{promise.name}", marks=marks))
    return pytest.mark.parametrize(("component", "promise"), cases)


def _test_id(component: Any) -> str:
    if isinstance(component, str):
        return component
    return component.__name__ if inspect.isclass(component) else repr(component)
