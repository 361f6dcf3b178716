"""What a metric promises."""

from __future__ import annotations

import math
from typing import Any

from forgetkit.contracts import MegaBatchResult, as_number
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing
from forgetkit.testing.common import KitCase
from forgetkit.testing.promise import Failure, NotApplicable, Promise, promise


def row(index: int, errors: int, *, validated: bool = True) -> MegaBatchResult:
    """A finished mega-batch with so many errors on forty test samples."""
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


_RUN = (row(1, 20), row(2, 13), row(3, 8))


def _compute(case: KitCase, rows: tuple[MegaBatchResult, ...], seed: int = 0, component: Any = None) -> Any:
    """What a run would record: a scalar of NumPy or torch as the number it holds; what is no number as it is."""
    metric = component if component is not None else case.another()
    with seeded_rng(seed):
        value = metric.compute(list(rows))
    try:
        return as_number(value)
    except TypeError:
        return value


def _fault(value: Any) -> str:
    try:
        if value is not None:
            as_number(value)
    except TypeError as error:
        return f"compute() returned {error}, or None"
    return ""


def _infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def runs(case: KitCase) -> None:
    """`compute(rows)` answers for a run of three mega-batches."""
    _compute(case, _RUN)


def number(case: KitCase) -> None:
    """The answer is a number, or None; a scalar of NumPy or torch is one."""
    fault = _fault(_compute(case, _RUN))
    if fault:
        raise Failure(fault)


def finite(case: KitCase) -> None:
    """The answer is not NaN or infinite; where there is none, it is None."""
    value = _compute(case, _RUN)
    if _infinite(value):
        raise Failure(f"compute() returned {value}; where the number is not defined, return None")


def _copes(case: KitCase, rows: tuple[MegaBatchResult, ...]) -> None:
    usual, value = _compute(case, _RUN), _compute(case, rows)
    if _fault(value) and not _fault(usual):
        raise Failure(_fault(value))
    if _infinite(value) and not _infinite(usual):
        raise Failure(f"compute() returned {value}; where the number is not defined, return None")


def empty(case: KitCase) -> None:
    """A run without a finished mega-batch is answered."""
    _copes(case, ())


def single(case: KitCase) -> None:
    """A run of a single mega-batch is answered."""
    _copes(case, (row(1, 20),))


def faultless(case: KitCase) -> None:
    """A run without a single error is answered."""
    _copes(case, (row(1, 0), row(2, 0)))


def unvalidated(case: KitCase) -> None:
    """A run without validation samples, whose rows hold None in their place, is answered."""
    _copes(case, (row(1, 20, validated=False), row(2, 13, validated=False)))


def deterministic(case: KitCase) -> None:
    """Asked twice, a metric gives the same answer."""
    metric = case.another()
    if not comparing.same_bits(_compute(case, _RUN, component=metric), _compute(case, _RUN, component=metric)):
        raise Failure("asked again, it gives another answer")


def own_randomness(case: KitCase) -> None:
    """The global random state has no part in the answer and is left as it was."""
    if not comparing.same_bits(_compute(case, _RUN), _compute(case, _RUN)):
        raise NotApplicable("the promise 'deterministic' is broken")
    if not comparing.same_bits(_compute(case, _RUN, 1), _compute(case, _RUN, 2)):
        raise Failure("the answer varies with the global random state")
    with comparing.watch_random_state():
        case.another().compute(list(_RUN))


def leaves_settings(case: KitCase) -> None:
    """The process-wide settings of torch and NumPy (default dtype, grad mode, autocast …) are as they were."""
    with comparing.watch_settings():
        case.another().compute(list(_RUN))


def leaves_rows(case: KitCase) -> None:
    """The rows are as before, and in the same order."""
    rows = [row(1, 20), row(2, 13), row(3, 8)]
    case.another().compute(rows)
    if rows != list(_RUN):
        raise Failure("it changes the rows that it is handed")


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return promise(
        "metrics",
        *(runs, number, finite, empty, single, faultless, unvalidated),
        *(deterministic, own_randomness, leaves_settings, leaves_rows),
    )
