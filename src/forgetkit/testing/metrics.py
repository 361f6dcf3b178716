"""The promises of metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from forgetkit.contracts import MegaBatchResult, as_number
from forgetkit.seeding import seeded_rng
from forgetkit.testing import rows
from forgetkit.testing.case import KitCase
from forgetkit.testing.promise import Failure, row


def result_of(index: int, errors: int, *, validated: bool = True) -> MegaBatchResult:
    """Return the result of a mega-batch with ``errors`` errors on forty test samples."""
    gap = 0.01 * errors
    return MegaBatchResult(
        index=index,
        train_samples=90,
        val_samples=10 if validated else 0,
        epochs=2,
        samples_seen=180,
        forward_passes=280,
        backward_passes=280,
        train_accuracy=0.9,
        val_accuracy=0.9 - gap if validated else None,
        generalization_gap=gap if validated else None,
        test_accuracy=1 - errors / 40,
        test_errors=errors,
        test_samples=40,
        seconds=1.5,
        unlearn={"scored": 100, "reset": 20, "seconds": 0.1, "layers": {}},
        carried_epoch=2,
    )


def _run() -> tuple[MegaBatchResult, ...]:
    return result_of(1, 20), result_of(2, 13), result_of(3, 8)


def number(value: Any) -> None:
    """The answer is a number or None; a scalar of NumPy or torch is a number."""
    try:
        if value is not None:
            as_number(value)
    except TypeError as error:
        raise Failure(f"compute() returned {error}, or None") from error


def finite(value: Any) -> None:
    """The answer is not NaN or infinite; if there is none, it is None."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Failure(f"compute() returned {value}; if the number is not defined, return None")


FORM = tuple(map(row, (number, finite)))


@dataclass(frozen=True, eq=False)
class MetricCase(KitCase):
    """A metric under examination."""

    form: ClassVar = FORM

    def usual_input(self) -> Sequence[MegaBatchResult]:
        """Return the results of a run of three mega-batches."""
        return _run()

    def perform(self, component: Any, given: Sequence[MegaBatchResult], seed: int) -> Any:
        """Compute the metric, as the plain number that a run records."""
        with seeded_rng(seed):
            value = component.compute(list(given))
        try:
            return as_number(value)
        except TypeError:
            return value

    def act(self) -> object:
        """Compute the metric once."""
        return self.another().compute(list(_run()))


def leaves_rows(case: MetricCase) -> None:
    """The metric changes neither the rows nor their order."""
    results = list(_run())
    case.another().compute(results)
    if results != list(_run()):
        raise Failure("it changes the rows that it is given")


def _without_validation() -> tuple[MegaBatchResult, ...]:
    return result_of(1, 20, validated=False), result_of(2, 13, validated=False)


PROMISES = (
    rows.runs("`compute(rows)` returns for a run of three mega-batches."),
    *rows.of_usual(FORM),
    rows.copes(tuple, "A run without a finished mega-batch gives a valid answer.", "empty"),
    rows.copes(lambda: (result_of(1, 20),), "A run of a single mega-batch gives a valid answer.", "single"),
    rows.copes(lambda: (result_of(1, 0), result_of(2, 0)), "A run without an error gives a valid answer.", "faultless"),
    rows.copes(
        _without_validation,
        "A run without validation samples, whose rows hold None in their place, gives a valid answer.",
        "unvalidated",
    ),
    rows.deterministic("Called twice, a metric gives the same answer."),
    rows.own_randomness("The global random state neither changes the answer nor is changed."),
    rows.LEAVES_SETTINGS,
    row(leaves_rows),
)
