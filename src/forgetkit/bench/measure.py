"""Two ways of doing the same work, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from forgetkit.errors import ForgetkitError

Side = Callable[[], int]
"""Does the work once, until the device is done with it; returns how many samples (scores, starts) that was."""

TimingReading = Literal["times as fast", "times the cost", "of it", "seconds more"]
"""What the figure of a case is.

times as fast: reference / ours; the target is the least that is wanted.
times the cost: (ours - beside) / reference; the target is the most that is allowed.
of it: ours / reference, of unlike work: a share, without a target.
seconds more: ours - reference; the target is the most that is allowed.
"""

ProgressCallback = Callable[[int, int], None]
"""Hears how many of how many repetitions are done."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """Where cases run: the name of a torch device. Threads are torch's own, set before."""

    device: str


@dataclass(frozen=True, eq=False)
class Sides:
    """What is timed. ``beside`` is a part of ours that is not to count; ``fault`` a promise found broken meanwhile."""

    ours: Side
    reference: Side
    beside: Side | None = None
    close: Callable[[], None] = lambda: None
    fault: str | None = None


@dataclass(frozen=True)
class BenchmarkCase:
    """A comparison.

    ``ours`` and ``reference`` say in words what is timed; ``prepare`` makes it ready; ``lacks`` says in words why it
    cannot be measured in a setting. ``rate`` is how many a second are wanted of ours besides ``target``.
    """

    name: str
    ours: str
    reference: str
    prepare: Callable[[BenchmarkOptions], Sides]
    reading: TimingReading = "times as fast"
    target: float | None = None
    rate: float | None = None
    unit: str = "samples"
    lacks: Callable[[BenchmarkOptions], str | None] = lambda setting: None


@dataclass(frozen=True)
class Measurement:
    """The times of a case: for each side the seconds of every repetition, in order; ``done`` is one's work."""

    case: BenchmarkCase
    done: int
    seconds: Mapping[str, tuple[float, ...]]
    fault: str | None = None

    @property
    def medians(self) -> dict[str, float]:
        """Seconds by side."""
        return {side: statistics.median(times) for side, times in self.seconds.items()}

    @property
    def figure(self) -> float:
        """The case's reading, of the medians."""
        return _read(self.case.reading, self.medians)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest reading of a repetition by itself."""
        sides = list(self.seconds)
        each = [
            _read(self.case.reading, dict(zip(sides, times, strict=True)))
            for times in zip(*self.seconds.values(), strict=True)
        ]
        return min(each), max(each)

    @property
    def rate(self) -> float:
        """How many samples (scores, starts) ours does in a second."""
        return self.done / self.medians["ours"]

    @property
    def met(self) -> bool | None:
        """Whether the targets are; None where there is none."""
        if self.case.target is None:
            return None
        least = self.case.reading == "times as fast"
        reached = self.figure >= self.case.target if least else self.figure <= self.case.target
        return reached and self.fault is None and (self.case.rate is None or self.rate >= self.case.rate)

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints of it. Times are in seconds."""
        return _about(self.case) | {
            "skipped": None,
            "work": self.done,
            "repetitions": len(self.seconds["ours"]),
            "medians": self.medians,
            "figure": self.figure,
            "spread": list(self.spread),
            "rate": self.rate,
            "met": self.met,
            "fault": self.fault,
            "seconds": {side: list(times) for side, times in self.seconds.items()},
        }


@dataclass(frozen=True)
class SkippedCase:
    """A case that cannot be measured here, and why."""

    case: BenchmarkCase
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints of it."""
        return _about(self.case) | {"skipped": self.reason}


def measure(
    case: BenchmarkCase,
    setting: BenchmarkOptions,
    repetitions: int,
    told: ProgressCallback = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement | SkippedCase:
    """Each side once for nothing, then all in turn, so that what else the machine does meets them alike.

    The order turns round with every repetition. Raises ``ForgetkitError`` where the sides did not do as many samples
    (scores, starts); how they cut them into steps is for the case to see to.
    """
    reason = case.lacks(setting)
    if reason is not None:
        return SkippedCase(case, reason)
    sides = case.prepare(setting)
    try:
        calls = {"ours": sides.ours, "reference": sides.reference}
        if sides.beside is not None:
            calls["beside"] = sides.beside
        work = {name: call() for name, call in calls.items()}
        if case.reading != "of it" and work["ours"] != work["reference"]:
            raise ForgetkitError(
                f"the case {case.name} compares {work['ours']} {case.unit} with {work['reference']}: the sides differ"
            )
        times: dict[str, list[float]] = {name: [] for name in calls}
        told(0, repetitions)
        for repetition in range(repetitions):
            order = list(calls) if repetition % 2 == 0 else list(reversed(calls))
            for name in order:
                began = clock()
                calls[name]()
                times[name].append(clock() - began)
            told(repetition + 1, repetitions)
    finally:
        sides.close()
    return Measurement(case, work["ours"], {name: tuple(each) for name, each in times.items()}, sides.fault)


def _read(reading: TimingReading, seconds: Mapping[str, float]) -> float:
    ours, reference = seconds["ours"], seconds["reference"]
    match reading:
        case "times as fast":
            return reference / ours
        case "times the cost":
            return (ours - seconds.get("beside", 0.0)) / reference
        case "of it":
            return ours / reference
        case "seconds more":
            return ours - reference


def _about(case: BenchmarkCase) -> dict[str, Any]:
    return {
        "name": case.name,
        "ours": case.ours,
        "reference": case.reference,
        "reading": case.reading,
        "target": case.target,
        "target_rate": case.rate,
        "unit": case.unit,
    }
