"""The figures of a case in words, for a screen and for a page."""

from __future__ import annotations

from forgetkit.bench.measure import BenchmarkCase, Measurement, SkippedCase, TimingReading

HEADINGS = ("case", "ours", "reference", "figure", "range", "target", "")
"""The columns of a :func:`row`. The range is that of single repetitions."""

_FIGURES: dict[TimingReading, str] = {
    "times as fast": "{:.2f} ×",
    "times the cost": "{:.2f} × cost",
    "of it": "{:.1%}",
    "seconds more": "{:+.3f} s",
}


def row(result: Measurement | SkippedCase) -> tuple[str, ...]:
    """One case as texts, a column each; the last says whether the target is met."""
    case = result.case
    if isinstance(result, SkippedCase):
        return case.name, "–", "–", "–", "–", target(case), "skipped"
    ours, reference = (_side(result, result.medians[side]) for side in ("ours", "reference"))
    figure = _FIGURES[case.reading].format(result.figure)
    spread = "–".join(_FIGURES[case.reading].format(value).lstrip("+").split()[0] for value in result.spread)
    verdict = {None: "", True: "met", False: "missed"}[result.met]
    return case.name, ours, reference, figure, spread, target(case), verdict


def target(case: BenchmarkCase) -> str:
    """``at least 0.97``, ``at most 1.3``: the direction is in the words. Empty where there is no target."""
    if case.target is None:
        return ""
    least = case.reading == "times as fast"
    words = f"at {'least' if least else 'most'} {case.target:g}" + " s" * (case.reading == "seconds more")
    return words if case.rate is None else f"{words} and {case.rate:,.0f}/s"


def _side(result: Measurement, seconds: float) -> str:
    """A rate where samples are worked off, else a time."""
    if result.case.reading == "times as fast" and result.case.unit == "samples":
        return f"{result.done / seconds:,.0f}/s"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
