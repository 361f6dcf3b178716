"""The figures of a case in words, for a screen and for a page."""

from __future__ import annotations

from forgetkit.bench.measure import Case, Measured, Skipped

HEADINGS = ("case", "ours", "reference", "figure", "of single repetitions", "target", "")
"""What the columns of a :func:`row` are."""


def row(result: Measured | Skipped) -> tuple[str, ...]:
    """One case as texts, a column each; the last says whether the target is met."""
    case = result.case
    if isinstance(result, Skipped):
        return case.name, "–", "–", "–", "–", target(case), "skipped"
    medians = result.medians
    figure = reading(case, result.figure)
    low, high = (_number(case, value) for value in result.spread)
    verdict = {None: "", True: "met", False: "missed"}[result.met]
    return (
        case.name,
        _side(result, medians["ours"]),
        _side(result, medians["reference"]),
        figure,
        f"{low} to {high}",
        (target(case)),
        verdict,
    )


def reading(case: Case, value: float) -> str:
    """``0.98 times as fast``, ``12 % of it``."""
    return f"{_number(case, value)} {case.reading}"


def target(case: Case) -> str:
    """``at least 0.97``, ``at most 1.3``; empty where there is none."""
    if case.target is None:
        return ""
    least = case.reading == "times as fast"
    words = f"at {'least' if least else 'most'} {case.target:g}" + " s" * (case.reading == "seconds more")
    return words if case.rate is None else f"{words} and {case.rate:,.0f} {case.unit}/s"


def _number(case: Case, value: float) -> str:
    if case.reading == "of it":
        return f"{100 * value:.3g} %"
    return f"{value:.3f}" if case.reading == "seconds more" else f"{value:.2f}"


def _side(result: Measured, seconds: float) -> str:
    """A rate where samples are worked off, else a time."""
    if result.case.reading == "times as fast" and result.case.unit == "samples":
        return f"{result.done / seconds:,.0f}/s"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
