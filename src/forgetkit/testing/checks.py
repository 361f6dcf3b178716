"""One function per kind, for a test of a single line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgetkit.testing.examination import NONE_EXPECTED, require
from forgetkit.testing.importance import Oracle
from forgetkit.testing.promise import Verdict


def check_importance(
    component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED, oracle: Oracle | None = None
) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where a criterion breaks a promise; see :func:`examine`."""
    return require("importance", component, expected_failures, oracle)


def check_reinit(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where a way of forgetting breaks a promise; see :func:`examine`."""
    return require("reinit", component, expected_failures)


def check_replay(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where a replay strategy breaks a promise; see :func:`examine`."""
    return require("replay", component, expected_failures)


def check_intervention(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where an intervention breaks a promise; see :func:`examine`."""
    return require("interventions", component, expected_failures)


def check_dataset(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where a data set breaks a promise; see :func:`examine`."""
    return require("datasets", component, expected_failures)


def check_model(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where a builder of networks breaks a promise; see :func:`examine`."""
    return require("models", component, expected_failures)


def check_metric(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where a metric breaks a promise; see :func:`examine`."""
    return require("metrics", component, expected_failures)


def check_observer(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where an observer breaks a promise; see :func:`examine`."""
    return require("observers", component, expected_failures)


def check_analysis(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where an analysis breaks a promise; see :func:`examine`."""
    return require("analyses", component, expected_failures)


def check_executor(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` where an executor breaks a promise; see :func:`examine`."""
    return require("executors", component, expected_failures)
