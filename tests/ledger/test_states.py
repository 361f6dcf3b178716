"""The ledger and the stream against dictionaries of sets, step by step, in whatever order one can think of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.watched_data import OFFERS, ROLES, played
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forgetkit.contracts import Data, DataSplit, Samples
from forgetkit.data import Ledger, Stream, partition
from forgetkit.errors import LeakError
from forgetkit.seeding import Seeds

SAMPLES = 24
FEW = settings(max_examples=20, stateful_step_count=12, deadline=None, derandomize=True)
some_ids = st.lists(st.integers(0, SAMPLES - 1), max_size=8).map(lambda ids: np.array(ids, np.int64))
roles = st.sampled_from(ROLES)


def source() -> DataSplit:
    ids = np.arange(SAMPLES)
    return DataSplit(ids.astype(np.float32)[:, None] * 2, (ids % 3).astype(np.int64))


def readable(ledger: Ledger, role: Any) -> set[int]:
    """Sample by sample: what can be read, both ways and as it is."""
    found = set()
    for sample in range(SAMPLES):
        ids = np.array([sample])
        try:
            part, labels = ledger.read(role, ids), ledger.labels(role, ids)
        except LeakError:
            with pytest.raises(LeakError):
                ledger.labels(role, ids)
            continue
        assert (part.inputs.tolist(), part.labels.tolist(), labels.tolist()) == ([[sample * 2]], *[[sample % 3]] * 2)
        found.add(sample)
    return found


class LedgerAgainstSets(RuleBasedStateMachine):
    """Reveals and gives up at random."""

    @initialize()
    def begin(self) -> None:
        self.ledger = Ledger(source())
        self.open: dict[str, set[int]] = {role: set() for role in ROLES}

    @rule(role=roles, ids=some_ids)
    def reveal(self, role: Any, ids: np.ndarray) -> None:
        self.ledger.reveal(role, ids)
        self.open[role] |= set(ids.tolist())

    @rule(role=roles, ids=some_ids)
    def give_up(self, role: Any, ids: np.ndarray) -> None:
        """All but these; where one of them is closed nothing happens."""
        if set(ids.tolist()) <= self.open[role]:
            self.ledger.give_up_all_but(role, ids)
            self.open[role] = set(ids.tolist())
        else:
            with pytest.raises(LeakError):
                self.ledger.give_up_all_but(role, ids)

    @rule(role=roles, ids=some_ids)
    def read(self, role: Any, ids: np.ndarray) -> None:
        """All of them or none."""
        if set(ids.tolist()) <= self.open[role]:
            assert self.ledger.read(role, ids).inputs.ravel().tolist() == (ids * 2).tolist()
        else:
            with pytest.raises(LeakError):
                self.ledger.read(role, ids)

    @invariant()
    def as_the_sets_say(self) -> None:
        for role in ROLES:
            assert readable(self.ledger, role) == self.open[role]


class Hoarding:
    """Keeps a random part, most of it old."""

    def retain(self, buffer: Samples, arrivals: Samples, rng: np.random.Generator) -> np.ndarray:
        at_hand = np.concatenate([buffer.ids, arrivals.ids])
        return at_hand[rng.random(len(at_hand)) < 0.6]


STRATEGIES = [
    Hoarding(),
    *(OFFERS.make("replay", spec)[1] for spec in ("full", "none", "last", "buffer:size=4", "buffer:size=3,rule=lure")),
]


class StreamAgainstSets(RuleBasedStateMachine):
    """A stream played in its order, looked ahead of, and interrupted at random."""

    @initialize(count=st.integers(2, 5), strategy=st.sampled_from(STRATEGIES), seed=st.integers(0, 3))
    def begin(self, count: int, strategy: Any, seed: int) -> None:
        self.part, seeds = source(), Seeds(seed)
        self.cut = partition(np.arange(SAMPLES), count, 0.3, "random", seeds)
        self.hands, self.kept = played(Data(self.part, self.part, tuple("abc")), self.cut, strategy, seed)
        self.new = lambda: Stream(self.part, self.cut, strategy, seeds)
        self.stream, self.index, self.revealed, self.state = self.new(), 1, None, None
        self.extra: set[int] = set()

    @precondition(lambda self: self.revealed is None and self.index <= len(self.cut))
    @rule()
    def reveal(self) -> None:
        self.revealed = self.stream.reveal(self.index)
        for role in ROLES:
            assert getattr(self.revealed, role).tolist() == self.hands[self.index - 1][role].tolist()
        assert self.revealed.arrived.tolist() == self.cut[self.index - 1].train.tolist()

    @precondition(lambda self: self.revealed is not None and self.index < len(self.cut))
    @rule(score_on=st.sampled_from(["finished", "first", "incoming", "union"]))
    def offer(self, score_on: Any) -> None:
        """What arrives next opens to be scored on, and nothing else does."""
        offered, kept = self.stream.scoring_ids(score_on, self.index), self.kept[self.index - 1]["train"].tolist()
        coming = self.cut[self.index].train.tolist()
        if score_on in ("incoming", "union"):
            self.extra = set(coming)
        expected = {
            "finished": self.cut[self.index - 1].train.tolist(),
            "first": self.cut[0].train.tolist(),
            "incoming": coming,
            "union": kept + coming,
        }
        assert offered.tolist() == expected[score_on]

    @precondition(lambda self: self.revealed is not None)
    @rule()
    def retain(self) -> None:
        self.stream.retain(self.index)
        self.index, self.revealed, self.extra, self.state = self.index + 1, None, set(), self.stream.state()

    @precondition(lambda self: self.state is not None)
    @rule()
    def resume(self) -> None:
        """Another process takes the stream up again where a mega-batch had been closed."""
        self.stream, self.revealed, self.extra = self.new(), None, set()
        self.stream.restore(self.state)

    @rule()
    def begin_anew(self) -> None:
        """A run that died before its first state."""
        if self.state is None:
            self.stream, self.revealed, self.extra = self.new(), None, set()

    @invariant()
    def as_the_sets_say(self) -> None:
        if not hasattr(self, "cut"):
            return
        for role in ROLES:
            if self.revealed is not None:
                expected = set(self.hands[self.index - 1][role].tolist())
            else:
                expected = set(self.kept[self.index - 2][role].tolist()) if self.index > 1 else set()
            expected |= self.extra if role == "train" else set()
            assert readable(self.stream._ledger, role) == expected


TestLedgerAgainstSets = LedgerAgainstSets.TestCase
TestLedgerAgainstSets.settings = FEW
TestStreamAgainstSets = StreamAgainstSets.TestCase
TestStreamAgainstSets.settings = FEW
