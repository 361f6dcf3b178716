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
    """Raise :class:`BrokenPromise` at the first promise that a criterion breaks; see :func:`examine`."""
    return require("importance", component, expected_failures, oracle)


def check_reinit(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` at the first promise that a way of forgetting breaks; see :func:`examine`."""
    return require("reinit", component, expected_failures)


def check_replay(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` at the first promise that a replay strategy breaks; see :func:`examine`."""
    return require("replay", component, expected_failures)


def check_intervention(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` at the first promise that an intervention breaks; see :func:`examine`."""
    return require("interventions", component, expected_failures)


def check_dataset(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` at the first promise that a data set breaks; see :func:`examine`."""
    return require("datasets", component, expected_failures)


def check_model(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` at the first promise that a builder of networks breaks; see :func:`examine`."""
    return require("models", component, expected_failures)


def check_metric(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` at the first promise that a metric breaks; see :func:`examine`."""
    return require("metrics", component, expected_failures)


def check_observer(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` at the first promise that an observer breaks; see :func:`examine`."""
    return require("observers", component, expected_failures)


def check_analysis(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` at the first promise that an analysis breaks; see :func:`examine`."""
    return require("analyses", component, expected_failures)


def check_executor(component: Any, *, expected_failures: Mapping[str, str] = NONE_EXPECTED) -> tuple[Verdict, ...]:
    """Raise :class:`BrokenPromise` at the first promise that an executor breaks; see :func:`examine`."""
    return require("executors", component, expected_failures)
