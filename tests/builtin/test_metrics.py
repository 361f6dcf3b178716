"""The metrics, against the paper's definitions done the long way."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.builtin.metrics import forgetkit_metrics
from forgetkit.builtin.metrics.accuracy import FinalAccuracy
from forgetkit.builtin.metrics.anytime import MeanAnytimeError
from forgetkit.builtin.metrics.cer import CumulativeErrors
from forgetkit.builtin.metrics.gap import GeneralizationGap
from forgetkit.contracts import MegaBatchResult, Metric

ROW = MegaBatchResult(
    index=1,
    train_samples=90,
    val_samples=10,
    epochs=2,
    samples_seen=180,
    forward_passes=280,
    backward_passes=280,
    train_accuracy=0.9,
    val_accuracy=0.8,
    generalization_gap=0.1,
    test_accuracy=0.75,
    test_errors=25,
    test_samples=100,
    seconds=1.5,
)


def row(errors: int, tested: int, gap: float | None = None) -> MegaBatchResult:
    return dataclasses.replace(
        ROW,
        test_errors=errors,
        test_samples=tested,
        test_accuracy=1 - errors / tested,
        generalization_gap=gap,
        val_accuracy=None if gap is None else ROW.train_accuracy - gap,
    )


@st.composite
def runs(draw):
    """Finished runs; the number of test samples may differ from row to row."""
    gaps = st.floats(-1, 1, allow_nan=False)
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        tested = draw(st.integers(1, 10_000))
        rows.append(row(draw(st.integers(0, tested)), tested, draw(gaps)))
    return rows


def test_every_metric_is_offered_under_its_name():
    offered = forgetkit_metrics()
    assert offered == {
        "cer": CumulativeErrors,
        "generalization-gap": GeneralizationGap,
        "mean-anytime-error": MeanAnytimeError,
        "test-accuracy": FinalAccuracy,
    }
    assert all(isinstance(metric(), Metric) for metric in offered.values())


def test_by_hand():
    rows = [row(30, 100, 0.25), row(20, 100, 0.5), row(10, 100, 0.0)]
    assert FinalAccuracy().compute(rows) == 0.9
    assert CumulativeErrors().compute(rows) == 60
    assert MeanAnytimeError().compute(rows) == 0.2
    assert GeneralizationGap().compute(rows) == 0.25


def test_the_papers_run():
    """Table 1, CIFAR-10: 9,622 errors over 8 mega-batches and 10,000 test images are 12.0 %."""
    errors = [1203] * 6 + [1202] * 2
    rows = [row(count, 10_000) for count in errors]
    assert CumulativeErrors().compute(rows) == 9622
    assert MeanAnytimeError().compute(rows) == pytest.approx(0.120275, abs=0)


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=6))
def test_cer_is_equation_4(wrong):
    """Each test sample of each mega-batch counts one where the network is wrong."""
    rows = [row(sum(answers), len(answers)) for answers in wrong]
    count = 0
    for answers in wrong:
        for is_wrong in answers:
            if is_wrong:
                count += 1
    cer = CumulativeErrors().compute(rows)
    assert cer == count
    assert type(cer) is int
    assert MeanAnytimeError().compute(rows) == count / (7 * len(wrong))


@given(runs())
def test_fractions_are_exact(rows):
    error = Fraction(sum(r.test_errors for r in rows), sum(r.test_samples for r in rows))
    assert MeanAnytimeError().compute(rows) == float(error)
    gap = sum(Fraction(r.generalization_gap) for r in rows) / len(rows)
    assert GeneralizationGap().compute(rows) == pytest.approx(float(gap), rel=1e-12, abs=1e-300)
    assert FinalAccuracy().compute(rows) == rows[-1].test_accuracy


@given(runs(), st.data())
def test_one_mega_batch_without_validation_leaves_no_gap(rows, data):
    at = data.draw(st.integers(0, len(rows) - 1))
    assert GeneralizationGap().compute(rows) is not None
    rows[at] = dataclasses.replace(rows[at], generalization_gap=None, val_accuracy=None)
    assert GeneralizationGap().compute(rows) is None


def test_before_the_first_mega_batch():
    assert CumulativeErrors().compute([]) == 0
    assert FinalAccuracy().compute([]) is None
    assert MeanAnytimeError().compute([]) is None
    assert GeneralizationGap().compute([]) is None
