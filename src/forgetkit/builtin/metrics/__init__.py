"""Metrics: numbers computed from the finished mega-batches of a run."""

from collections.abc import Mapping

from forgetkit.builtin.metrics.accuracy import FinalAccuracy
from forgetkit.builtin.metrics.anytime import MeanAnytimeError
from forgetkit.builtin.metrics.cer import CumulativeErrors
from forgetkit.builtin.metrics.gap import GeneralizationGap
from forgetkit.contracts import Metric
from forgetkit.registry.hookspecs import hookimpl


@hookimpl
def forgetkit_metrics() -> Mapping[str, type[Metric]]:
    """Return the paper's three metrics, and its cumulative errors as a fraction."""
    return {
        "cer": CumulativeErrors,
        "generalization-gap": GeneralizationGap,
        "mean-anytime-error": MeanAnytimeError,
        "test-accuracy": FinalAccuracy,
    }
