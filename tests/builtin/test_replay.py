"""The replay strategies, and that a reservoir is one: every possible buffer equally likely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from forgetkit.builtin.replay import forgetkit_replay
from forgetkit.builtin.replay.buffer import Buffer
from forgetkit.builtin.replay.full import Full
from forgetkit.builtin.replay.last import Last
from forgetkit.builtin.replay.none import NoReplay
from forgetkit.contracts import Replay, Role, Samples
from forgetkit.errors import OptionError
from forgetkit.registry.spec import build_component, parse_spec

STRATEGIES = [
    *(Full(), NoReplay(), Last()),
    *(Buffer(size=5), Buffer(size=5, rule="per-mega-batch"), Buffer(size=5, rule="lure")),
]
UNLIKELY = 1e-6
"""The probability that a right strategy would fail a statistical test, had the seed not been fixed."""

sizes_of_mega_batches = st.lists(st.integers(0, 15), min_size=1, max_size=8)
any_strategy = st.one_of(
    st.sampled_from([Full(), NoReplay(), Last()]),
    st.builds(Buffer, size=st.integers(1, 30), rule=st.sampled_from(["reservoir", "per-mega-batch"])),
)


def samples(ids: NDArray[np.int64], seen: int, role: Role = "train") -> Samples:
    return Samples(ids, ids % 3, seen, role)


def stream(
    strategy: Replay, sizes: list[int], rng: np.random.Generator, first: int = 0, role: Role = "train"
) -> Iterator[tuple]:
    """What was kept, what arrived and what is kept of both, a mega-batch at a time."""
    ids = first + rng.permutation(sum(sizes))
    kept = samples(ids[:0], 0, role)
    for size in sizes:
        arrived = samples(ids[kept.seen : kept.seen + size], size, role)
        result = strategy.retain(kept, arrived, rng)
        yield kept, arrived, result
        kept = samples(result, kept.seen + size, role)


def check_equally_likely(counts: Counter, outcomes: int) -> None:
    """Pearson's chi-square test of ``outcomes`` equally likely ones."""
    expected = counts.total() / outcomes
    assert expected > 100
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    statistic += (outcomes - len(counts)) * expected
    assert statistic < chi2.isf(UNLIKELY, outcomes - 1)


def test_every_strategy_is_offered_under_its_name():
    offered = forgetkit_replay()
    assert offered == {"buffer": Buffer, "full": Full, "last": Last, "none": NoReplay}
    assert all(isinstance(strategy(), Replay) for strategy in offered.values())


def test_options():
    assert Buffer() == Buffer(size=186, rule="reservoir")
    assert Buffer().val_size is None
    built = build_component("buffer", Buffer, parse_spec("buffer:20,rule=per-mega-batch"))
    assert built == Buffer(size=20, rule="per-mega-batch")
    built = build_component("buffer", Buffer, parse_spec("buffer:20,val-size=7,rule=lure"))
    assert built == Buffer(size=20, val_size=7, rule="lure")
    assert build_component("buffer", Buffer, parse_spec("buffer:val_size=none")) == Buffer()
    for spec in ["buffer:size=0", "buffer:val_size=0", "buffer:rule=fifo", "buffer:rule=grow", "full:size=3"]:
        parsed = parse_spec(spec)
        with pytest.raises(OptionError):
            build_component(parsed.name, forgetkit_replay()[parsed.name], parsed)


# What holds for all of them


@given(any_strategy, sizes_of_mega_batches, st.integers(0, 2**32))
def test_ids_are_unique_ascending_and_have_been_offered(strategy, sizes, seed):
    for kept, arrived, result in stream(strategy, sizes, np.random.default_rng(seed), first=1000):
        assert result.dtype == np.int64
        assert result.ndim == 1
        assert (np.diff(result) > 0).all()
        assert set(result.tolist()) <= {*kept.ids.tolist(), *arrived.ids.tolist()}


@given(any_strategy, sizes_of_mega_batches, st.integers(0, 2**32))
def test_nothing_but_the_generator_is_drawn_from(strategy, sizes, seed):
    before = np.random.get_state()[1].tolist()
    runs = [
        [result.tolist() for _, _, result in stream(strategy, sizes, np.random.default_rng(seed))] for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_what_is_handed_in_stays_as_it_was(strategy):
    rng = np.random.default_rng(0)
    kept, arrived = samples(np.array([9, 3, 5]), 3), samples(np.array([8, 2, 7, 1]), 4)
    strategy.retain(kept, arrived, rng)
    assert kept.ids.tolist() == [9, 3, 5]
    assert arrived.ids.tolist() == [8, 2, 7, 1]


# The simple ones


@given(sizes_of_mega_batches, st.integers(0, 2**32))
def test_full_none_and_last(sizes, seed):
    seen: set[int] = set()
    for _, arrived, result in stream(Full(), sizes, np.random.default_rng(seed)):
        seen |= set(arrived.ids.tolist())
        assert result.tolist() == sorted(seen)
    for _, arrived, result in stream(Last(), sizes, np.random.default_rng(seed)):
        assert result.tolist() == sorted(arrived.ids.tolist())
    for _, _, result in stream(NoReplay(), sizes, np.random.default_rng(seed)):
        assert result.tolist() == []


# The buffer that grows


@given(st.integers(1, 20), sizes_of_mega_batches, st.integers(0, 2**32))
def test_per_mega_batch_keeps_what_it_has_and_adds(size, sizes, seed):
    for kept, arrived, result in stream(Buffer(size, rule="per-mega-batch"), sizes, np.random.default_rng(seed)):
        added = set(result.tolist()) - set(kept.ids.tolist())
        assert set(kept.ids.tolist()) <= set(result.tolist())
        assert added <= set(arrived.ids.tolist())
        assert len(added) == min(size, len(arrived))


def test_per_mega_batch_draws_every_subset_of_the_arrived_alike():
    rng = np.random.default_rng(1)
    kept, arrived = samples(np.array([50, 51]), 9), samples(np.arange(5), 5)
    drawn = Counter(
        tuple(Buffer(2, rule="per-mega-batch").retain(kept, arrived, rng)[:2].tolist()) for _ in range(3000)
    )
    assert set(drawn) == set(combinations(range(5), 2))
    check_equally_likely(drawn, 10)


# The buffer of the LURE code


@given(st.integers(1, 20), sizes_of_mega_batches, st.integers(0, 2**32))
def test_lure_appends_draws_from_the_mega_batch_and_itself(size, sizes, seed):
    """What is kept stays, as often as it was; what is drawn was at hand, each copy once at most."""
    for kept, arrived, result in stream(Buffer(size, rule="lure"), sizes, np.random.default_rng(seed)):
        before, now = Counter(kept.ids.tolist()), Counter(result.tolist())
        at_hand = before + Counter(arrived.ids.tolist())
        assert result.dtype == np.int64
        assert result.tolist() == sorted(result.tolist())
        assert before <= now
        assert now - before <= at_hand
        assert len(result) - len(kept) == min(size, at_hand.total())


def test_lure_grows_by_its_size_and_repeats():
    """Where there is enough, so many more each time: 1,274 by the eighth mega-batch, as in the code."""
    *before, (_, _, last) = stream(Buffer(182, rule="lure"), [5625] * 7, np.random.default_rng(0))
    assert [len(result) for _, _, result in before] == [182 * at for at in range(1, 7)]
    assert len(last) == 1274
    assert len(np.unique(last)) < 1274
    assert len(np.unique(before[0][2])) == 182


def test_lure_draws_every_subset_of_what_is_at_hand_alike():
    rng = np.random.default_rng(6)
    kept, arrived = samples(np.array([50, 51]), 9), samples(np.arange(3), 3)
    drawn: Counter = Counter()
    for _ in range(3000):
        result = Counter(Buffer(2, rule="lure").retain(kept, arrived, rng).tolist()) - Counter([50, 51])
        drawn[tuple(sorted(result.elements()))] += 1
    assert set(drawn) == set(combinations([0, 1, 2, 50, 51], 2))
    check_equally_likely(drawn, 10)


def test_only_lure_may_repeat():
    repeating = {rule: Buffer(rule=rule).may_repeat for rule in ("reservoir", "per-mega-batch", "lure")}
    assert repeating == {"reservoir": False, "per-mega-batch": False, "lure": True}


# What holds for every rule of the buffer


@pytest.mark.parametrize("rule", ["reservoir", "per-mega-batch", "lure"])
@given(size=st.integers(1, 20), other=st.integers(1, 20), sizes=sizes_of_mega_batches, seed=st.integers(0, 2**32))
def test_validation_samples_have_a_size_of_their_own(rule, size, other, sizes, seed):
    """With ``val_size`` they are kept as a buffer of that size would keep training samples; without, as those are."""

    def kept(buffer: Buffer, role: Role) -> list[list[int]]:
        return [result.tolist() for _, _, result in stream(buffer, sizes, np.random.default_rng(seed), role=role)]

    assert kept(Buffer(size, other, rule), "train") == kept(Buffer(size, None, rule), "train")
    assert kept(Buffer(size, other, rule), "val") == kept(Buffer(other, None, rule), "train")
    assert kept(Buffer(size, None, rule), "val") == kept(Buffer(size, None, rule), "train")


@pytest.mark.parametrize("rule", ["reservoir", "per-mega-batch", "lure"])
def test_a_buffer_larger_than_the_stream_is_refused(rule):
    Buffer(90, rule=rule).check([40, 30, 20])
    with pytest.raises(OptionError, match="buffer: size=91 is more than the 90 training samples") as caught:
        Buffer(91, rule=rule).check([40, 30, 20])
    assert "\n" not in str(caught.value)


# The reservoir


@given(st.integers(1, 40), sizes_of_mega_batches, st.integers(0, 2**32))
def test_the_reservoir_is_as_full_as_it_can_be(size, sizes, seed):
    for kept, arrived, result in stream(Buffer(size), sizes, np.random.default_rng(seed)):
        assert len(result) == min(size, kept.seen + len(arrived))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "sizes"), [(2, [2, 3, 1]), (3, [1, 1, 1, 1, 1, 1]), (3, [7]), (2, [1, 0, 6]), (4, [2, 4, 1])], ids=str
)
def test_every_buffer_is_equally_likely_after_every_mega_batch(size, sizes):
    """The definition of a uniform draw without replacement, at each point of the stream.

    The ids are counted by their place in the stream, so that no permutation hides a bias for the
    old or the new.
    """
    rng = np.random.default_rng(2)
    found: list[Counter] = [Counter() for _ in sizes]
    for _ in range(6000):
        place: dict[int, int] = {}
        for at, (_, arrived, result) in enumerate(stream(Buffer(size), sizes, rng)):
            for number in arrived.ids.tolist():
                place[number] = len(place)
            found[at][tuple(sorted(place[number] for number in result.tolist()))] += 1
    seen = 0
    for arrived_count, counts in zip(sizes, found, strict=True):
        seen += arrived_count
        buffers = set(combinations(range(seen), min(size, seen)))
        assert set(counts) == buffers
        if len(buffers) > 1:
            check_equally_likely(counts, len(buffers))


@pytest.mark.slow
def test_old_and_new_samples_are_kept_alike_in_a_long_stream():
    """Inclusion of each of 400 samples after ten unequal mega-batches, against 60 / 400."""
    rng = np.random.default_rng(3)
    sizes, size, streams = [30, 70, 5, 95, 40, 10, 50, 1, 79, 20], 60, 1500
    counts = np.zeros(sum(sizes))
    order = np.arange(sum(sizes))
    for _ in range(streams):
        kept = samples(order[:0], 0)
        for arrived in np.split(order, np.cumsum(sizes)[:-1]):
            result = Buffer(size).retain(kept, samples(arrived, len(arrived)), rng)
            kept = samples(result, kept.seen + len(arrived))
        counts[kept.ids] += 1
    assert counts.sum() == streams * size
    chance = size / len(counts)
    # Each stream keeps exactly `size`, so the counts are negatively correlated: hence n - 1, twice.
    n = len(counts)
    statistic = ((counts - streams * chance) ** 2).sum() / (streams * chance * (1 - chance)) * (n - 1) / n
    assert chi2.isf(1 - UNLIKELY, n - 1) < statistic < chi2.isf(UNLIKELY, n - 1)


def test_a_reservoir_larger_than_the_stream_keeps_everything():
    for kept, arrived, result in stream(Buffer(), [40, 30, 20], np.random.default_rng(4)):
        assert result.tolist() == sorted([*kept.ids.tolist(), *arrived.ids.tolist()])


def test_an_incomplete_reservoir_gives_valid_ids():
    """Kept is shorter than a reservoir of this size would be, as after a change of its size."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        result = Buffer(20).retain(samples(np.array([1, 2, 3]), 1000), samples(np.arange(10, 15), 5), rng)
        assert len(set(result.tolist())) == len(result) <= 8
        assert set(result.tolist()) <= {1, 2, 3, *range(10, 15)}
