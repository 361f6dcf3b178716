"""The conformance kit: what a plugin's author runs to see whether a component keeps its contract."""

from forgetkit.testing.checks import (
    check_analysis,
    check_dataset,
    check_executor,
    check_importance,
    check_intervention,
    check_metric,
    check_model,
    check_observer,
    check_reinit,
    check_replay,
)
from forgetkit.testing.examination import check, examine, promises
from forgetkit.testing.promise import BrokenPromise, Promise, Verdict
from forgetkit.testing.suite import parametrize

__all__ = [
    "BrokenPromise",
    "Promise",
    "Verdict",
    "check",
    "check_analysis",
    "check_dataset",
    "check_executor",
    "check_importance",
    "check_intervention",
    "check_metric",
    "check_model",
    "check_observer",
    "check_reinit",
    "check_replay",
    "examine",
    "parametrize",
    "promises",
]
