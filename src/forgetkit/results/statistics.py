"""Means, paired comparisons and verdicts.

The effect of few seeds:

- no seed: no mean, no comparison, "too few seeds";
- one seed: a mean without a standard deviation, a difference without an interval, p = 1;
- two seeds: a standard deviation, p = 1/2 or 1;
- seeds too few for a verdict: no interval either, since it would be too wide to use;
- the same difference at every seed: no interval, since there is no spread;
- a seed that only one of two arms has does not count in their comparison;
- differences that are all zero: p = 1, "not distinguishable" if there are enough seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from forgetkit.contracts import Bounds
from forgetkit.seeding import Seeds

Verdict = Literal["better", "worse", "not distinguishable", "too few seeds"]

ALPHA = 0.05
CONFIDENCE = 0.95
EXACT_UP_TO = 40
"""Seeds up to which all sign assignments are counted; for more seeds, ``DRAWS`` assignments are drawn."""
DRAWS = 2**17 - 1


@dataclass(frozen=True)
class Summary:
    """``n`` values: their mean, None for no value, and their sample standard deviation, None for fewer than two."""

    n: int
    mean: float | None
    std: float | None


@dataclass(frozen=True)
class PairedComparison:
    """Ours minus the other over the ``n`` seeds that both have.

    ``low`` and ``high`` bound the mean difference with 95 % confidence by Student's t, within the possible values; they
    are None if the difference is the same at every seed (``constant``), or there is one seed. ``p`` is that of the
    two-sided sign-flip test: the share of all 2ⁿ assignments of signs to the differences whose sum is at least as far
    from zero as the observed one. ``exact`` is False if assignments were drawn instead of counted.
    """

    n: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    exact: bool = True
    constant: bool = False


@dataclass(frozen=True)
class Judgement:
    """A comparison of a table, its p value corrected for the number of comparisons, and its verdict.

    With the verdict "too few seeds" the comparison has no interval.
    """

    comparison: PairedComparison
    adjusted: float | None
    verdict: Verdict


def summarize(values: Iterable[float]) -> Summary:
    """Summarize values; their order does not change a bit."""
    known = list(values)
    return Summary(len(known), fmean(known) if known else None, stdev(known) if len(known) > 1 else None)


def compare_arms(
    ours: Mapping[int, float], other: Mapping[int, float], bounds: Bounds = (None, None)
) -> PairedComparison:
    """Compare two arms, paired by seed.

    Args:
        ours: A value by seed.
        other: A value by seed, which is taken from ours.
        bounds: The lowest and the highest possible difference, None for no bound. They limit the interval.

    Returns:
        The comparison over the seeds that both have.
    """
    seeds = sorted(ours.keys() & other.keys())
    differences = [ours[seed] - other[seed] for seed in seeds]
    across = summarize(differences)
    if across.mean is None:
        return PairedComparison(0, None, None, None, None)
    steps = _in_multiples(differences, max(abs(arm[seed]) for arm in (ours, other) for seed in seeds))
    exact = across.n <= EXACT_UP_TO
    p = _count_exactly(steps) if exact else _sampled_signs(steps)
    constant = across.n > 1 and int(steps.max() - steps.min()) <= 1  # each step may be off by one half
    if across.std is None or constant:
        return PairedComparison(across.n, across.mean, None, None, p, exact, constant)
    half = float(stdtrit(across.n - 1, (1 + CONFIDENCE) / 2)) * across.std / math.sqrt(across.n)
    low, high = across.mean - half, across.mean + half
    if bounds[0] is not None:
        low = max(low, min(bounds[0], across.mean))  # an observed difference is possible
    if bounds[1] is not None:
        high = min(high, max(bounds[1], across.mean))
    return PairedComparison(across.n, across.mean, low, high, p, exact)


def smallest_p(n: int) -> float:
    """The smallest p value that ``n`` seeds can give."""
    return min(1.0, 2.0 ** (1 - n)) if n <= EXACT_UP_TO else 1 / (1 + DRAWS)


def seeds_needed(comparisons: int, alpha: float = ALPHA) -> int:
    """The seeds that each of so many comparisons needs, so that its p value can be below ``alpha``."""
    return next(n for n in range(1, EXACT_UP_TO + 1) if comparisons * smallest_p(n) < alpha)


def holm(values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Correct p values for their number by Holm's method; None is no comparison and stays None."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = highest
    return tuple(adjusted)


def verdicts(
    comparisons: Sequence[PairedComparison], higher_is_better: Sequence[bool], alpha: float = ALPHA
) -> tuple[Judgement, ...]:
    """Judge each comparison of a table, with p values corrected for all of them together.

    The verdict is "too few seeds" if p could not be below ``alpha`` whatever the values, even if every other p value of
    the table were as small as its seeds allow.
    """
    adjusted = holm([comparison.p for comparison in comparisons])
    attainable = holm([smallest_p(comparison.n) if comparison.n else None for comparison in comparisons])
    judged = []
    for comparison, higher, p, least in zip(comparisons, higher_is_better, adjusted, attainable, strict=True):
        verdict: Verdict = "not distinguishable"
        if least is None or least >= alpha:
            verdict = "too few seeds"
        elif p is not None and p < alpha and comparison.difference is not None:
            verdict = "better" if (comparison.difference > 0) == higher else "worse"
        shown = replace(comparison, low=None, high=None) if verdict == "too few seeds" else comparison
        judged.append(Judgement(shown, p, verdict))
    return tuple(judged)


def _in_multiples(differences: Sequence[float], largest: float) -> np.ndarray:
    """The differences as whole multiples of 2⁻⁴⁰ of the largest value, so that sums are exact and ties stay ties.

    0.93 − 0.92 and 0.92 − 0.91 are one hundredth each, and differ in the last bits as floats.
    """
    exponent = math.frexp(largest)[1]
    return np.array([round(math.ldexp(difference, 40 - exponent)) for difference in differences], dtype=np.int64)


def _threshold(steps: np.ndarray) -> int:
    """The smallest sum that counts as no smaller than the observed one: each step may be off by one."""
    return abs(int(steps.sum())) - len(steps)


def _count_exactly(steps: np.ndarray) -> float:
    """Meet in the middle: 2ⁿ sums are pairs of 2ⁿᐟ² sums of the halves; bisection counts in a sorted half."""
    threshold = _threshold(steps)
    if threshold <= 0:
        return 1.0
    half = len(steps) // 2
    left, right = _sums(steps[:half]), _sums(steps[half:])
    reached = len(left) * len(right) - int(np.searchsorted(right, threshold - left).sum())
    return math.ldexp(reached, 1 - len(steps))  # twice, for either tail


def _sums(steps: np.ndarray) -> np.ndarray:
    """The sums under all assignments of signs, in order."""
    sums = np.zeros(1, dtype=np.int64)
    for step in steps:
        sums = np.concatenate([sums + step, sums - step])
    return np.sort(sums)


def _sampled_signs(steps: np.ndarray) -> float:
    """Test the observed assignment against ``DRAWS`` others from a fixed random stream."""
    threshold = _threshold(steps)
    rng = Seeds(0).numpy("sign-flips", len(steps))
    reached, left = 1, DRAWS
    while left:
        count = min(left, 2**14)
        sums = rng.choice(np.array([-1, 1]), size=(count, len(steps))) @ steps
        reached += int((np.abs(sums) >= threshold).sum())
        left -= count
    return reached / (1 + DRAWS)
