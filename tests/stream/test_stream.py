"""The partition, the ledger, and what replay may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgetkit import registry
from forgetkit.contracts import Data, Part, Samples
from forgetkit.errors import ComponentError, ConfigError, DataError, LeakError
from forgetkit.seeding import Seeds
from forgetkit.stream import Ledger, Stream, check_data, digest, partition, sizes


def part(samples: int) -> Part:
    ids = np.arange(samples)
    return Part(ids.astype(np.float32)[:, None], (ids % 3).astype(np.int64))


@given(samples=st.integers(1, 500), data=st.data(), val=st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.9]))
def test_the_partition_is_exact(samples: int, data: st.DataObject, val: float) -> None:
    count = data.draw(st.integers(1, samples))
    cut = partition(samples, count, val, Seeds(data.draw(st.integers(0, 9))))
    every = np.concatenate([ids for m in cut for ids in (m.train, m.val)])
    lengths = [len(m.train) + len(m.val) for m in cut]
    assert sorted(every) == list(range(samples))
    assert max(lengths) - min(lengths) <= 1
    for mega_batch, length in zip(cut, lengths, strict=True):
        assert len(mega_batch.val) == round(val * 100) * length // 100
        assert len(mega_batch.train) >= 1
    assert [m.index for m in cut] == list(range(1, count + 1))


def test_the_partition_is_a_function_of_the_seed() -> None:
    digests = [digest(partition(100, 7, 0.1, Seeds(seed))) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_more_mega_batches_than_samples() -> None:
    with pytest.raises(ConfigError, match="11 mega-batches of 10 training samples"):
        partition(10, 11, 0.1, Seeds(0))


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


@dataclass(frozen=True)
class AnySubset:
    """Keeps whatever the test drew."""

    choose: Any

    def retain(self, kept: Samples, arrived: Samples, rng: np.random.Generator) -> np.ndarray:
        at_hand = np.concatenate([kept.ids, arrived.ids])
        return at_hand[rng.random(len(at_hand)) < self.choose]


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(5, 80), count=st.integers(1, 5), share=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 5)
)
def test_only_what_is_at_hand_can_be_read(samples: int, count: int, share: float, seed: int) -> None:
    """Whatever a strategy keeps: at every moment exactly the current pool is readable, in its role."""
    cut = partition(samples, count, 0.2, Seeds(seed))
    stream = Stream(part(samples), cut, AnySubset(share), Seeds(seed))
    expected = {"train": set(), "val": set()}
    for index, mega_batch in enumerate(cut, 1):
        revealed = stream.reveal(index)
        for role in ("train", "val"):
            expected[role] |= set(getattr(mega_batch, role).tolist())
            assert set(getattr(revealed, role).tolist()) == expected[role]
            for sample in range(samples):
                ids = np.array([sample])
                if sample in expected[role]:
                    assert revealed.read(role, ids).inputs[0, 0] == sample
                else:
                    with pytest.raises(LeakError):
                        revealed.read(role, ids)
        stream.retain(index)
        state = stream.state()
        expected = {role: set(state[role]["ids"].tolist()) for role in ("train", "val")}
        assert state["train"]["seen"] == sum(len(m.train) for m in cut[:index])


def test_without_replay_reading_the_past_raises() -> None:
    cut = partition(30, 3, 0.1, Seeds(0))
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


@pytest.mark.parametrize("spec", ["full", "none", "last", "buffer:size=7", "buffer:size=3,rule=grow"])
def test_a_restored_stream_goes_on_as_the_old_one(spec: str) -> None:
    cut, seeds = partition(60, 5, 0.2, Seeds(3)), Seeds(3)
    replay = registry.load().make("replay", spec)[1]
    through = Stream(part(60), cut, replay, seeds)
    played = []
    for index in range(1, 6):
        revealed = through.reveal(index)
        played.append((revealed.train.tolist(), revealed.val.tolist()))
        if index == 3:
            state = through.state()  # as of the end of mega-batch 2
        through.retain(index)
    again = Stream(part(60), cut, replay, seeds)
    again.restore(state)
    for index in range(3, 6):
        revealed = again.reveal(index)
        assert (revealed.train.tolist(), revealed.val.tolist()) == played[index - 1]
        again.retain(index)
    assert sizes(part(60).labels, cut, replay, seeds) == [len(train) for train, _ in played]


@pytest.mark.parametrize(
    ("keep", "complaint"),
    [
        (lambda kept, arrived: np.repeat(arrived.ids[:1], 2), "kept a sample twice"),
        (lambda kept, arrived: np.array([29]) if 29 not in arrived.ids else np.array([-1]), "which was not at hand"),
        (lambda kept, arrived: arrived.ids[:, None], "not int64 of one dimension"),
        (lambda kept, arrived: arrived.ids.astype(float), "not int64 of one dimension"),
    ],
)
def test_a_strategy_that_breaks_its_promise(keep: Any, complaint: str) -> None:
    class Broken:
        def retain(self, kept: Samples, arrived: Samples, rng: np.random.Generator) -> np.ndarray:
            return keep(kept, arrived)

    stream = Stream(part(30), partition(30, 3, 0.1, Seeds(0)), Broken(), Seeds(0))
    stream.reveal(1)
    with pytest.raises(ComponentError, match=complaint):
        stream.retain(1)


def test_labels_follow_their_ids_through_replay() -> None:
    seen: list[tuple[Samples, Samples]] = []

    class Watching:
        def retain(self, kept: Samples, arrived: Samples, rng: np.random.Generator) -> np.ndarray:
            seen.append((kept, arrived))
            return np.concatenate([kept.ids, arrived.ids])[::-2].copy()

    stream = Stream(part(40), partition(40, 4, 0.0, Seeds(1)), Watching(), Seeds(1))
    for index in range(1, 5):
        stream.reveal(index)
        stream.retain(index)
    for kept, arrived in seen:
        for samples in (kept, arrived):
            assert (samples.labels == samples.ids % 3).all()


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
def test_unsound_data_is_named(change: dict[str, Any], complaint: str, which: str) -> None:
    parts = {"train": good(), "test": good()}
    parts[which] |= change
    with pytest.raises(DataError, match=f"mine: the {which} part.*{complaint}"):
        check_data(Data(Part(**parts["train"]), Part(**parts["test"]), ("a", "b")), "mine")


def test_nan_and_disagreeing_shapes_are_named() -> None:
    images = np.zeros((5000, 1, 2, 2), np.float32)
    images[4500, 0, 1, 1] = np.nan
    bad = Part(images, np.zeros(5000, np.int64))
    with pytest.raises(DataError, match="sample 4500 holds NaN"):
        check_data(Data(bad, Part(**good()), ("a", "b")), "mine")
    other = Part(np.zeros((4, 1, 3, 3), np.uint8), good()["labels"])
    with pytest.raises(DataError, match="they must agree"):
        check_data(Data(Part(**good()), other, ("a", "b")), "mine")
