"""Time two ways of doing the same work, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Side = Callable[[], int]
"""Does the work once, waits for the device, and returns the number of samples (scores, starts)."""

Reading = Literal["times as fast", "times the cost", "of it", "seconds more"]
"""How the figure of a case follows from the seconds.

times as fast: reference / ours; the target is a minimum.
times the cost: (ours - excluded) / reference; the target is a maximum.
of it: ours / reference, of different work; no target.
seconds more: ours - reference; the target is a maximum.
"""

HEADINGS = ("case", "ours", "reference", "figure", "range", "target", "")
"""The columns of a :func:`row`. The range is that of single repetitions."""

_FORMATS: dict[Reading, str] = {
    "times as fast": "{:.2f} ×",
    "times the cost": "{:.2f} × cost",
    "of it": "{:.1%}",
    "seconds more": "{:+.3f} s",
}


@dataclass(frozen=True, eq=False)
class Sides:
    """The two sides of a case. ``excluded`` is a part of ours that does not count; ``fault`` a broken promise."""

    ours: Side
    reference: Side
    excluded: Side | None = None
    close: Callable[[], None] = lambda: None
    fault: str | None = None


@dataclass(frozen=True)
class Case:
    """A comparison, with ``ours`` and ``reference`` described in words.

    ``prepare`` sets both sides up on a device; ``unavailable`` gives the reason if the case cannot run on that device.
    ``rate`` is a minimum per second for ours, besides ``target``.
    """

    name: str
    ours: str
    reference: str
    prepare: Callable[[str], Sides]
    reading: Reading = "times as fast"
    target: float | None = None
    rate: float | None = None
    unit: str = "samples"
    unavailable: Callable[[str], str | None] = lambda device: None

    @property
    def has_minimum(self) -> bool:
        """Whether the target is a minimum, not a maximum."""
        return self.reading == "times as fast"

    @property
    def target_text(self) -> str:
        """``at least 0.97``, ``at most 1.3``; empty without a target."""
        if self.target is None:
            return ""
        words = f"at {'least' if self.has_minimum else 'most'} {self.target:g}" + " s" * (
            self.reading == "seconds more"
        )
        return words if self.rate is None else f"{words} and {self.rate:,.0f}/s"

    def as_dict(self) -> dict[str, Any]:
        """The part of a record that describes the case."""
        return {
            "name": self.name,
            "ours": self.ours,
            "reference": self.reference,
            "reading": self.reading,
            "target": self.target,
            "target_rate": self.rate,
            "unit": self.unit,
        }


@dataclass(frozen=True)
class Measurement:
    """The seconds of every repetition by side, in order; ``work`` is the number of samples of one repetition."""

    case: Case
    work: int
    seconds: Mapping[str, tuple[float, ...]]
    fault: str | None = None

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds by side."""
        return {side: statistics.median(times) for side, times in self.seconds.items()}

    @property
    def figure(self) -> float:
        """The case's reading of the medians."""
        return _read(self.case.reading, **self.medians)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest reading of a single repetition."""
        repetitions = zip(*self.seconds.values(), strict=True)
        figures = [_read(self.case.reading, **dict(zip(self.seconds, times, strict=True))) for times in repetitions]
        return min(figures), max(figures)

    @property
    def rate(self) -> float:
        """Samples (scores, starts) per second of ours."""
        return self.work / self.medians["ours"]

    @property
    def met(self) -> bool | None:
        """Whether all targets are met; None without a target."""
        if self.case.target is None:
            return None
        reached = self.figure >= self.case.target if self.case.has_minimum else self.figure <= self.case.target
        return reached and self.fault is None and (self.case.rate is None or self.rate >= self.case.rate)

    def as_dict(self) -> dict[str, Any]:
        """The case's part of the record that ``--json`` prints."""
        return self.case.as_dict() | {
            "skipped": None,
            "work": self.work,
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
    """A case that cannot run here, and the reason."""

    case: Case
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """The case's part of the record that ``--json`` prints."""
        return self.case.as_dict() | {"skipped": self.reason}


def measure(
    case: Case, device: str, repetitions: int, clock: Callable[[], float] = time.perf_counter
) -> Measurement | SkippedCase:
    """Call each side once to warm up, then all in turn; the order reverses with every repetition.

    Raises:
        ValueError: The sides did different numbers of samples.
    """
    reason = case.unavailable(device)
    if reason is not None:
        return SkippedCase(case, reason)
    sides = case.prepare(device)
    try:
        calls = {"ours": sides.ours, "reference": sides.reference}
        if sides.excluded is not None:
            calls["excluded"] = sides.excluded
        work = {name: call() for name, call in calls.items()}
        if case.reading != "of it" and work["ours"] != work["reference"]:
            raise ValueError(f"{case.name} compares {work['ours']} {case.unit} with {work['reference']}")
        times: dict[str, list[float]] = {name: [] for name in calls}
        for repetition in range(repetitions):
            for name in list(calls)[:: -1 if repetition % 2 else 1]:
                began = clock()
                calls[name]()
                times[name].append(clock() - began)
    finally:
        sides.close()
    return Measurement(case, work["ours"], {name: tuple(each) for name, each in times.items()}, sides.fault)


def row(result: Measurement | SkippedCase) -> tuple[str, ...]:
    """Format a case as a cell for each of :data:`HEADINGS`; the last says whether the target is met."""
    case = result.case
    if isinstance(result, SkippedCase):
        return case.name, "–", "–", "–", "–", case.target_text, "skipped"
    ours, reference = (_format_side(result, result.medians[side]) for side in ("ours", "reference"))
    style = _FORMATS[case.reading]
    spread = "–".join(style.format(value).lstrip("+").split()[0] for value in result.spread)
    verdict = {None: "", True: "met", False: "missed"}[result.met]
    return case.name, ours, reference, style.format(result.figure), spread, case.target_text, verdict


def _read(reading: Reading, ours: float, reference: float, excluded: float = 0.0) -> float:
    match reading:
        case "times as fast":
            return reference / ours
        case "times the cost":
            return (ours - excluded) / reference
        case "of it":
            return ours / reference
        case "seconds more":
            return ours - reference


def _format_side(result: Measurement, seconds: float) -> str:
    if result.case.has_minimum and result.case.unit == "samples":
        return f"{result.work / seconds:,.0f}/s"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
