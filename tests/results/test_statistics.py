"""Statistics: against scipy, against all sign assignments in plain loops, against cases done by hand."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.results import statistics
from forgetkit.results.statistics import (
    Judgement,
    PairedComparison,
    Summary,
    compare_arms,
    holm,
    seeds_needed,
    smallest_p,
    summarize,
    verdicts,
)

VALUES = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 6))
P_VALUES = st.lists(st.none() | st.floats(1e-6, 1), max_size=12)


def by_seed(values) -> dict[int, float]:
    return dict(enumerate(values))


def of_p(p: float | None, n: int = 10, difference: float | None = 1.0) -> PairedComparison:
    return PairedComparison(n, difference, None, None, p)


def brute_force(differences: list[Fraction]) -> Fraction:
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return Fraction(sum(s >= observed for s in sums), len(sums))


def test_a_summary_by_hand() -> None:
    assert summarize([]) == Summary(0, None, None)
    assert summarize([0.25]) == Summary(1, 0.25, None)
    assert summarize([1.0, 3.0]) == Summary(2, 2.0, math.sqrt(2))
    assert summarize([7.0, 7.0, 7.0]) == Summary(3, 7.0, 0.0)


@given(st.lists(VALUES, min_size=2, max_size=9), st.randoms())
def test_a_summary_is_numpys_and_the_same_in_every_order(values, random) -> None:
    got = summarize(values)
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert got.std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    random.shuffle(values)
    assert summarize(values) == got


@pytest.mark.parametrize("n", [2, 3, 5, 11])
def test_the_interval_is_scipys_paired_t(n) -> None:
    rng = np.random.default_rng(n)
    ours, other = rng.normal(0.9, 0.02, n), rng.normal(0.88, 0.02, n)
    got = compare_arms(by_seed(ours), by_seed(other))
    low, high = scipy.stats.ttest_rel(ours, other).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((low, high), rel=1e-9)
    assert got.difference == pytest.approx((ours - other).mean(), rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 8, 13])
def test_p_is_scipys_permutation_test_of_paired_signs(n) -> None:
    rng = np.random.default_rng(n)
    ours, other = rng.normal(0.4, 1, n), rng.normal(0, 1, n)
    oracle = scipy.stats.permutation_test(
        (ours, other), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert compare_arms(by_seed(ours), by_seed(other)).p == pytest.approx(oracle.pvalue, rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=8))
def test_p_value_equals_exact_enumeration_with_decimal_ties(pairs) -> None:
    # Hundredths: as floats, differences that are equal on paper are not.
    got = compare_arms(by_seed(a / 100 for a, _ in pairs), by_seed(b / 100 for _, b in pairs))
    assert got.p == brute_force([Fraction(a - b, 100) for a, b in pairs])


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12))
def test_a_comparison_is_symmetric_and_p_is_a_probability(pairs) -> None:
    ours, other = by_seed(a for a, _ in pairs), by_seed(b for _, b in pairs)
    got, back = compare_arms(ours, other), compare_arms(other, ours)
    assert smallest_p(len(pairs)) <= got.p <= 1
    assert got.p == back.p
    assert got.difference == -back.difference
    assert got.constant == back.constant
    if got.low is None:
        assert got.high is None
        assert got.constant or got.n == 1
    else:
        assert (got.low, got.high) == pytest.approx((-back.high, -back.low))
        assert got.low <= got.difference <= got.high


def test_few_seeds_by_hand() -> None:
    assert compare_arms({}, {}) == PairedComparison(0, None, None, None, None)
    assert compare_arms({1: 0.5}, {2: 0.5}) == PairedComparison(0, None, None, None, None)
    assert compare_arms({1: 0.75}, {1: 0.5}) == PairedComparison(1, 0.25, None, None, 1.0)
    two = compare_arms({1: 3.0, 2: 5.0}, {1: 2.0, 2: 2.0})
    assert (two.n, two.difference, two.p) == (2, 2.0, 0.5)
    assert (two.low, two.high) == pytest.approx((2 - 12.70620474, 2 + 12.70620474))
    assert compare_arms({1: 3.0, 2: 1.0}, {1: 2.0, 2: 2.0}).p == 1.0


def test_only_common_seeds_are_paired() -> None:
    got = compare_arms({0: 9.0, 1: 0.75, 2: 1.0}, {1: 0.5, 2: 0.5, 7: -9.0})
    assert (got.n, got.difference) == (2, 0.375)


@pytest.mark.parametrize("n", [1, 2, 6, 30, 50])
def test_all_differences_zero_is_p_one(n) -> None:
    arm = by_seed([0.0] * n)
    got = compare_arms(arm, arm)
    assert (got.difference, got.p) == (0.0, 1.0)
    assert (got.low, got.high, got.constant) == (None, None, n > 1)


def test_what_ties_on_paper_ties_whatever_the_last_bits() -> None:
    # +0.1, +0.1, −0.1: one tenth is the smallest sum there is.
    ours, other = by_seed([0.3, 0.2, 0.7]), by_seed([0.2, 0.1, 0.8])
    assert len({abs(ours[seed] - other[seed]) for seed in ours}) == 3
    assert compare_arms(ours, other).p == 1.0


@pytest.mark.parametrize("n", [21, 30, 40])
def test_many_seeds_are_counted_exactly(n) -> None:
    # Differences 1 … n: the sums' distribution follows from counting subsets of each total, an integer at a time.
    signs = [1 if i % 3 else -1 for i in range(1, n + 1)]
    differences = [sign * i for sign, i in zip(signs, range(1, n + 1), strict=True)]
    ways = [1] + [0] * (n * (n + 1) // 2)
    for i in range(1, n + 1):
        for total in range(len(ways) - 1, i - 1, -1):
            ways[total] += ways[total - i]
    whole, observed = n * (n + 1) // 2, abs(sum(differences))
    reached = sum(count for total, count in enumerate(ways) if abs(2 * total - whole) >= observed)
    got = compare_arms(by_seed(map(float, differences)), by_seed([0.0] * n))
    assert got.exact
    assert got.p == reached / 2**n


def test_beyond_counting_signs_are_drawn_and_it_is_said() -> None:
    rng = np.random.default_rng(1)
    ours, other = by_seed(rng.normal(0.25, 1, 60)), by_seed([0.0] * 60)
    got = compare_arms(ours, other)
    assert not got.exact
    assert got == compare_arms(ours, other)
    assert got.p == compare_arms(other, ours).p
    assert got.p == pytest.approx(scipy.stats.ttest_1samp(list(ours.values()), 0).pvalue, abs=0.01)
    assert compare_arms(by_seed([1.0] * 60), other).p == smallest_p(60) == 1 / (1 + statistics.DRAWS)


def test_holm_by_hand() -> None:
    assert holm([]) == ()
    assert holm([None, 0.01, None]) == (None, 0.01, None)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.9, None]) == (1.0, 1.0, None)


@given(P_VALUES)
def test_holm_is_closed_testing_with_bonferroni(values) -> None:
    """The definition: a hypothesis falls where each set of hypotheses that holds it falls by Bonferroni."""
    known = [p for p in values if p is not None][:6]
    for place, adjusted in enumerate(holm(known)):
        others = [p for other, p in enumerate(known) if other != place]
        groups = (
            (known[place], *chosen)
            for size in range(len(others) + 1)
            for chosen in itertools.combinations(others, size)
        )
        assert adjusted == pytest.approx(min(1.0, max(len(group) * min(group) for group in groups)))


@given(P_VALUES)
def test_holm_keeps_the_order_and_never_flatters(values) -> None:
    adjusted = holm(values)
    assert [p is None for p in adjusted] == [p is None for p in values]
    pairs = sorted((p, a) for p, a in zip(values, adjusted, strict=True) if p is not None)
    assert all(p <= a <= 1 for p, a in pairs)
    assert [a for _, a in pairs] == sorted(a for _, a in pairs)


def test_verdicts_by_hand() -> None:
    said = verdicts(
        [of_p(0.008), of_p(0.008), of_p(0.008, difference=-1.0), of_p(0.008, difference=-1.0), of_p(0.8)],
        [True, False, True, False, True],
    )
    assert [one.verdict for one in said] == ["better", "worse", "worse", "better", "not distinguishable"]
    assert [one.adjusted for one in said] == pytest.approx([0.04] * 4 + [0.8])


def test_the_correction_decides() -> None:
    alone, among = verdicts([of_p(0.03)], [True])[0], verdicts([of_p(0.03), of_p(0.9)], [True, True])[0]
    assert (alone.verdict, among.verdict) == ("better", "not distinguishable")
    assert among == Judgement(of_p(0.03), 0.06, "not distinguishable")


@pytest.mark.parametrize(
    ("n", "comparisons", "verdict"),
    [
        (0, 1, "too few seeds"),
        (1, 1, "too few seeds"),
        (5, 1, "too few seeds"),
        (6, 1, "better"),
        (6, 2, "too few seeds"),
        (7, 2, "better"),
    ],
)
def test_too_few_seeds_by_hand(n, comparisons, verdict) -> None:
    best = compare_arms(by_seed([1.0] * n), by_seed([0.0] * n))
    assert {one.verdict for one in verdicts([best] * comparisons, [True] * comparisons)} == {verdict}
    assert (n >= seeds_needed(comparisons)) == (verdict == "better")


def test_few_seeds_suffice_beside_comparisons_with_many_seeds() -> None:
    few, many = (
        compare_arms(by_seed([1.0] * 6), by_seed([0.0] * 6)),
        compare_arms(by_seed([1.0] * 20), by_seed([0.0] * 20)),
    )
    assert [one.verdict for one in verdicts([few, many], [True, True])] == ["better", "better"]
    assert [one.verdict for one in verdicts([few, few], [True, True])] == ["too few seeds"] * 2


def test_comparison_without_common_seeds_leaves_others_unchanged() -> None:
    none, one = compare_arms({}, {}), compare_arms(by_seed([1.0] * 6), by_seed([0.0] * 6))
    said = verdicts([none, one, none], [True] * 3)
    assert [j.verdict for j in said] == ["too few seeds", "better", "too few seeds"]
    assert [j.adjusted for j in said] == [None, smallest_p(6), None]


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)), min_size=1, max_size=8))
def test_what_is_significant_was_never_out_of_reach(drawn) -> None:
    # p values that these seeds can give: smallest(n), twice that, …
    comparisons = [of_p(min(1.0, smallest_p(n) * 2**k), n) for n, k in drawn]
    for judged in verdicts(comparisons, [True] * len(comparisons)):
        assert (judged.verdict == "better") == (judged.adjusted < statistics.ALPHA)


@given(st.integers(1, 5000))
def test_enough_is_the_least_number_that_is(comparisons) -> None:
    n = seeds_needed(comparisons)
    assert comparisons * smallest_p(n) < statistics.ALPHA <= comparisons * smallest_p(n - 1)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=9))
def test_an_interval_ends_where_no_difference_can_be(pairs) -> None:
    ours, other = by_seed([a for a, _ in pairs]), by_seed([b for _, b in pairs])
    free, held = compare_arms(ours, other), compare_arms(ours, other, (-1, 1))
    assert (held.difference, held.p) == (free.difference, free.p)
    if free.low is None or free.high is None:
        assert (held.low, held.high) == (None, None)
    else:
        assert (held.low, held.high) == (max(-1, free.low), min(1, free.high))
        assert -1 <= held.low <= held.difference <= held.high <= 1


def test_the_interval_of_two_seeds_by_hand() -> None:
    """scipy's t has it 218 percentage points either way."""
    ours, other = by_seed([0.9, 0.9]), by_seed([0.9, 0.56])
    free = scipy.stats.t.interval(0.95, 1, 0.17, 0.17)
    assert (compare_arms(ours, other).low, compare_arms(ours, other).high) == pytest.approx(free)
    assert free[1] > 2
    bounded = compare_arms(ours, other, (-1, 1))
    assert (bounded.low, bounded.high) == (-1, 1)


def test_what_was_seen_is_possible_whatever_the_bounds_say() -> None:
    got = compare_arms(by_seed([3.0, 5.0, 4.0]), by_seed([0.0, 0.0, 0.0]), (-1, 1))
    assert got.low < got.difference == got.high == 4.0


def test_too_few_seeds_have_no_interval() -> None:
    few = compare_arms(by_seed([0.5, 0.7, 0.9]), by_seed([0.4, 0.5, 0.8]))
    enough_ = compare_arms(by_seed([0.5 + 0.01 * seed for seed in range(9)]), by_seed([0.4] * 9))
    assert few.low is not None
    first, second = verdicts([few, enough_], [True, True])
    assert (first.verdict, first.comparison.low, first.comparison.high) == ("too few seeds", None, None)
    assert (first.comparison.difference, first.comparison.p) == (few.difference, few.p)
    assert (second.verdict, second.comparison) == ("better", enough_)


def test_a_difference_without_spread_has_no_interval() -> None:
    """One tenth each on paper; as floats they differ in the last bits."""
    ours, other = by_seed([0.3, 0.2, 0.8, 0.4] * 2), by_seed([0.2, 0.1, 0.7, 0.3] * 2)
    assert len({ours[seed] - other[seed] for seed in ours}) > 1
    got = compare_arms(ours, other)
    assert (got.low, got.high, got.constant) == (None, None, True)
    assert got.p == 2 / 2**8
    assert verdicts([got], [True])[0].verdict == "better"
    assert not compare_arms(by_seed([0.1]), by_seed([0.2])).constant
