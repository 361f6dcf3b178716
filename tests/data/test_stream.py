"""The partition, the ledger, and what replay may do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.contracts import Data, DataSplit, Samples
from forgetkit.data import (
    Ledger,
    MegaBatch,
    Stream,
    add_label_noise,
    check_data,
    digest,
    few_shots,
    partition,
    simulate_replay,
)
from forgetkit.errors import ComponentError, ConfigError, DataError, LeakError
from forgetkit.registry import registry
from forgetkit.seeding import Seeds


def part(samples: int) -> DataSplit:
    ids = np.arange(samples)
    return DataSplit(ids.astype(np.float32)[:, None], (ids % 3).astype(np.int64))


def cut_of(samples: int, count: int, val: float, seed: int) -> tuple[MegaBatch, ...]:
    """The first ids, cut at random."""
    return partition(np.arange(samples), count, val, "random", Seeds(seed))


@given(samples=st.integers(1, 500), data=st.data(), val=st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.9]))
def test_the_partition_is_exact(samples: int, data: st.DataObject, val: float) -> None:
    count = data.draw(st.integers(1, samples))
    cut = cut_of(samples, count, val, data.draw(st.integers(0, 9)))
    every = np.concatenate([ids for m in cut for ids in (m.train, m.val)])
    lengths = [len(m.train) + len(m.val) for m in cut]
    assert sorted(every) == list(range(samples))
    assert max(lengths) - min(lengths) <= 1
    for mega_batch, length in zip(cut, lengths, strict=True):
        assert len(mega_batch.val) == round(val * 100) * length // 100
        assert len(mega_batch.train) >= 1
    assert [m.index for m in cut] == list(range(1, count + 1))


def test_the_partition_is_a_function_of_the_seed() -> None:
    digests = [digest(cut_of(100, 7, 0.1, seed)) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_more_mega_batches_than_samples() -> None:
    with pytest.raises(ConfigError, match="11 mega-batches of 10 training samples"):
        cut_of(10, 11, 0.1, 0)


@given(
    ids=st.sets(st.integers(0, 10**6), min_size=1, max_size=60), data=st.data(), val=st.sampled_from([0.0, 0.1, 0.29])
)
def test_a_contiguous_cut_keeps_the_order(ids: set[int], data: st.DataObject, val: float) -> None:
    """The tail of all is for validation; head and tail are each cut in order, into sizes that differ by one."""
    given_ids = np.array(data.draw(st.permutations(sorted(ids))))
    count = data.draw(st.integers(1, len(ids)))
    held_out = round(val * 100) * len(ids) // 100
    if len(ids) - held_out < count:
        with pytest.raises(ConfigError, match=f"--val-fraction {val} .*nothing to train on"):
            partition(given_ids, count, val, "contiguous", Seeds(0))
        return
    cut, other = (partition(given_ids, count, val, "contiguous", Seeds(seed)) for seed in (0, 1))
    assert digest(cut) == digest(other), "a seed has no say in it"
    assert [m.index for m in cut] == list(range(1, count + 1))
    stop = len(ids) - held_out
    for role, expected in (("train", given_ids[:stop]), ("val", given_ids[stop:])):
        pieces = [getattr(m, role) for m in cut]
        assert np.array_equal(np.concatenate(pieces), expected)
        lengths = [len(piece) for piece in pieces]
        assert max(lengths) - min(lengths) <= 1
        assert lengths == sorted(lengths, reverse=True)


def test_a_random_cut_of_some_ids_is_of_those() -> None:
    ids = np.array([7, 3, 100, 42, 8, 9, 5, 1])
    cut = partition(ids, 3, 0.34, "random", Seeds(2))
    assert sorted(np.concatenate([part for m in cut for part in (m.train, m.val)])) == sorted(ids)
    assert [len(m.val) for m in cut] == [1, 1, 0]


LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [50, 20, 30, 25]))


def test_few_shots_are_so_many_of_each_class() -> None:
    ids = few_shots(LABELS, "abcd", 20, Seeds(0))
    assert ids.tolist() == sorted(set(ids.tolist()))
    assert np.bincount(LABELS[ids]).tolist() == [20] * 4
    assert set(np.flatnonzero(LABELS == 1)) <= set(ids)  # of those there are no more
    assert np.array_equal(ids, few_shots(LABELS, "abcd", 20, Seeds(0)))
    assert not np.array_equal(ids, few_shots(LABELS, "abcd", 20, Seeds(1)))
    assert few_shots(LABELS, "abcd", None, Seeds(0)).tolist() == list(range(len(LABELS)))
    with pytest.raises(ConfigError, match="--shots 21: the class b has 20 training samples; use 20 or fewer"):
        few_shots(LABELS, "abcd", 21, Seeds(0))


def test_the_shots_of_a_class_are_its_own() -> None:
    """Whatever the other classes hold, and each sample of it alike."""
    fewer = np.where(LABELS == 3, 0, LABELS)  # a class less, and another larger
    taken = [set(few_shots(labels, "abcd"[:n], 5, Seeds(7))) for labels, n in ((LABELS, 4), (fewer, 3))]
    for label in (1, 2):
        own = set(np.flatnonzero(label == LABELS))
        assert taken[0] & own == taken[1] & own
    counts = np.zeros(len(LABELS))
    for seed in range(2000):
        counts[few_shots(LABELS, "abcd", 5, Seeds(seed))] += 1
    for label, size in enumerate((50, 20, 30, 25)):
        share = 5 / size
        spread = (2000 * share * (1 - share)) ** 0.5
        assert np.abs(counts[label == LABELS] - 2000 * share).max() < 5 * spread


@pytest.mark.parametrize(("draw", "wrong"), [("any", 0.3 * 0.75), ("other", 0.3)])
def test_noise_falls_on_its_share_of_the_labels(draw: str, wrong: float) -> None:
    """With ``any``, one draw in four falls on the true label; with ``other`` none does."""
    labels = np.arange(40_000) % 4
    before = labels.copy()
    noised = add_label_noise(labels, 4, 0.3, draw, np.empty(0, np.int64), Seeds(0))
    assert np.array_equal(labels, before), "a copy is written to"
    assert noised.dtype == np.int64
    assert noised.min() >= 0
    assert noised.max() <= 3
    spread = (wrong * (1 - wrong) * 40_000) ** 0.5
    assert abs(int((noised != labels).sum()) - 40_000 * wrong) < 5 * spread
    shifts = np.bincount((noised - labels) % 4, minlength=4)[1:]  # each wrong label as often as another
    assert np.abs(shifts - shifts.mean()).max() < 5 * shifts.mean() ** 0.5
    assert np.array_equal(noised, add_label_noise(labels, 4, 0.3, draw, np.empty(0, np.int64), Seeds(0)))
    assert not np.array_equal(noised, add_label_noise(labels, 4, 0.3, draw, np.empty(0, np.int64), Seeds(1)))


def test_what_is_to_stay_clean_stays_and_shifts_no_other_draw() -> None:
    labels, clean = np.arange(1000) % 5, np.arange(0, 1000, 3)
    everywhere, spared = (add_label_noise(labels, 5, 0.5, "other", ids, Seeds(3)) for ids in (clean[:0], clean))
    assert np.array_equal(spared[clean], labels[clean])
    rest = np.setdiff1d(np.arange(1000), clean)
    assert np.array_equal(spared[rest], everywhere[rest])
    assert (everywhere[clean] != labels[clean]).any()


def test_noise_of_nothing_and_of_everything() -> None:
    labels, nobody = np.arange(300) % 3, np.empty(0, np.int64)
    assert np.array_equal(add_label_noise(labels, 3, 0, "any", nobody, Seeds(0)), labels)
    assert (add_label_noise(labels, 3, 1, "other", nobody, Seeds(0)) != labels).all()
    assert np.array_equal(add_label_noise(labels * 0, 1, 1, "any", nobody, Seeds(0)), labels * 0)
    with pytest.raises(ConfigError, match="no other to draw"):
        add_label_noise(labels * 0, 1, 0.5, "other", nobody, Seeds(0))
    assert np.array_equal(add_label_noise(labels, 3, 0.5, "other", np.arange(300), Seeds(0)), labels)


def test_the_ledger_opens_and_closes() -> None:
    ledger, ids = Ledger(part(10)), np.array([3, 1])
    with pytest.raises(LeakError, match="sample 3 may not be read for training"):
        ledger.read("train", ids)
    ledger.reveal("train", ids)
    assert ledger.read("train", ids).inputs.ravel().tolist() == [3.0, 1.0]
    with pytest.raises(LeakError, match="for validation"):
        ledger.read("val", ids)
    with pytest.raises(LeakError):
        ledger.labels("train", np.array([1, 2]))
    ledger.give_up_all_but("train", np.array([1]))
    with pytest.raises(LeakError, match="sample 3"):
        ledger.read("train", ids)
    with pytest.raises(LeakError, match="sample 3"):
        ledger.give_up_all_but("train", ids)  # what is given up stays given up
    assert ledger.read("train", np.array([1])).labels.tolist() == [1]


def test_closing_costs_what_is_open_and_not_all_there_is() -> None:
    """Told by how many entries of the ledger's marks are written to."""

    class Counting(np.ndarray):
        touched = 0

        def __setitem__(self, key: Any, value: Any) -> None:
            Counting.touched += len(key)
            super().__setitem__(key, value)

    ledger, arriving = Ledger(part(10_000)), np.arange(10_000).reshape(1000, 10)
    ledger._readable = {role: mask.view(Counting) for role, mask in ledger._readable.items()}
    for ids in arriving:
        ledger.reveal("train", ids)
        ledger.give_up_all_but("train", ids[:3])
    assert 10_000 < Counting.touched < 40_000
    assert np.flatnonzero(ledger._readable["train"]).tolist() == arriving[-1, :3].tolist()


def test_without_replay_reading_the_past_raises() -> None:
    cut = cut_of(30, 3, 0.1, 0)
    stream = Stream(part(30), cut, registry.load().make("replay", "none")[1], Seeds(0))
    first = stream.reveal(1)
    assert len(first.read("train", first.train)) == 9
    stream.retain(1)
    second = stream.reveal(2)
    for closed in (first.train, cut[2].train, cut[1].val):
        with pytest.raises(LeakError):
            second.read("train", closed)
    with pytest.raises(LeakError):
        first.read("train", first.train)  # an old handle opens nothing either


def test_samples_carry_their_role_and_their_labels() -> None:
    roles: list[tuple[str, str]] = []

    class Watching:
        def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> np.ndarray:
            roles.append((buffer.role, arrivals.role))
            assert arrivals.ids.tolist() in [getattr(m, arrivals.role).tolist() for m in cut]
            for samples in (buffer, arrivals):
                assert (samples.labels == samples.ids % 3).all()
            return np.concatenate([buffer.ids, arrivals.ids])[::-2].copy()

    cut = cut_of(40, 4, 0.2, 1)
    through = Stream(part(40), cut, Watching(), Seeds(1))
    for index in range(1, 5):
        through.reveal(index)
        through.retain(index)
    assert roles == [("train", "train"), ("val", "val")] * 4


@pytest.mark.parametrize("may_repeat", [True, False])
def test_a_sample_counts_twice_only_for_who_says_so(may_repeat: bool) -> None:
    class Repeating:
        def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> np.ndarray:
            return np.sort(np.concatenate([buffer.ids, arrivals.ids, arrivals.ids[:1]]))

    Repeating.may_repeat = may_repeat
    cut = cut_of(30, 3, 0.1, 0)
    through = Stream(part(30), cut, Repeating(), Seeds(0))
    through.reveal(1)
    if not may_repeat:
        with pytest.raises(ComponentError, match="kept a sample twice"):
            through.retain(1)
        return
    through.retain(1)
    revealed = through.reveal(2)
    assert revealed.train.tolist() == sorted([*cut[0].train, cut[0].train[0]]) + cut[1].train.tolist()
    assert revealed.read("train", revealed.train).inputs.ravel().tolist() == revealed.train.tolist()
    assert len(list(simulate_replay(part(30).labels, cut, Repeating(), Seeds(0)))[2]) == 9 * 3 + 2


@pytest.mark.parametrize(
    "spec",
    [
        "full",
        "none",
        "last",
        "buffer:size=7",
        "buffer:size=3,rule=per-mega-batch",
        "buffer:size=4,val_size=2,rule=lure",
    ],
)
def test_a_restored_stream_goes_on_as_the_old_one(spec: str) -> None:
    cut, seeds = cut_of(60, 5, 0.2, 3), Seeds(3)
    replay = registry.load().make("replay", spec)[1]
    through = Stream(part(60), cut, replay, seeds)
    pools = []
    for index in range(1, 6):
        revealed = through.reveal(index)
        pools.append((revealed.train.tolist(), revealed.val.tolist()))
        if index == 3:
            state = through.state()  # as of the end of mega-batch 2
        through.retain(index)
    again = Stream(part(60), cut, replay, seeds)
    again.restore(state)
    for index in range(3, 6):
        revealed = again.reveal(index)
        assert (revealed.train.tolist(), revealed.val.tolist()) == pools[index - 1]
        again.retain(index)
    assert [ids.tolist() for ids in simulate_replay(part(60).labels, cut, replay, seeds)] == [
        train for train, _ in pools
    ]


@pytest.mark.parametrize(
    ("keep", "complaint"),
    [
        (lambda kept, arrived: np.repeat(arrived.ids[:1], 2), "kept a sample twice"),
        (lambda kept, arrived: np.array([29]) if 29 not in arrived.ids else np.array([-1]), "neither retained nor new"),
        (lambda kept, arrived: arrived.ids[:, None], "not int64 of one dimension"),
        (lambda kept, arrived: arrived.ids.astype(float), "not int64 of one dimension"),
    ],
)
def test_a_strategy_that_breaks_its_promise(keep: Any, complaint: str) -> None:
    class Broken:
        def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> np.ndarray:
            return keep(buffer, arrivals)

    stream = Stream(part(30), cut_of(30, 3, 0.1, 0), Broken(), Seeds(0))
    stream.reveal(1)
    with pytest.raises(ComponentError, match=complaint):
        stream.retain(1)


def good() -> dict[str, Any]:
    return {"inputs": np.zeros((4, 1, 2, 2), np.uint8), "labels": np.array([0, 1, 0, 1])}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"inputs": np.zeros((0, 1, 2, 2), np.uint8), "labels": np.zeros(0, np.int64)}, "has no samples"),
        ({"inputs": np.zeros((4, 1, 2, 2), np.int16)}, "expected uint8 or float32"),
        ({"inputs": np.zeros((4, 2, 2), np.uint8)}, "of shape"),
        ({"labels": np.array([0, 1, 0])}, "labels of shape"),
        ({"labels": np.array([0.0, 1, 0, 1])}, "expected int64"),
        ({"labels": np.array([0, 1, 2, 1])}, r"sample 2 has label 2, out of range 0\.\.1"),
        ({"labels": np.array([0, -1, 0, 1])}, "sample 1 has label -1"),
    ],
)
@pytest.mark.parametrize("which", ["train", "test"])
def test_invalid_data_is_named(change: dict[str, Any], complaint: str, which: str) -> None:
    parts = {"train": good(), "test": good()}
    parts[which] |= change
    with pytest.raises(DataError, match=f"mine: the {which} part.*{complaint}"):
        check_data(Data(DataSplit(**parts["train"]), DataSplit(**parts["test"]), ("a", "b")), "mine")


def test_nan_and_disagreeing_shapes_are_named() -> None:
    images = np.zeros((5000, 1, 2, 2), np.float32)
    images[4500, 0, 1, 1] = np.nan
    bad = DataSplit(images, np.zeros(5000, np.int64))
    with pytest.raises(DataError, match="sample 4500 holds NaN"):
        check_data(Data(bad, DataSplit(**good()), ("a", "b")), "mine")
    other = DataSplit(np.zeros((4, 1, 3, 3), np.uint8), good()["labels"])
    with pytest.raises(DataError, match="they must agree"):
        check_data(Data(DataSplit(**good()), other, ("a", "b")), "mine")
