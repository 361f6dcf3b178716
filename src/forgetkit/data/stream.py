"""The stream: mega-batch after mega-batch, what arrives, what replay retains, and what is given up."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import DataSplit, Replay, Role, Samples, ScoreOn, component_name
from forgetkit.data.ledger import LazySubset, Ledger
from forgetkit.data.partition import MegaBatch
from forgetkit.errors import ComponentError
from forgetkit.seeding import Seeds
from forgetkit.system.torch_settings import settings_restored

ROLES: tuple[Role, Role] = ("train", "val")


@dataclass(frozen=True, eq=False)
class VisibleData:
    """The samples that may be used while a mega-batch is the newest; all are read through the ledger.

    ``arrived`` are the ids of its training samples; ``train`` and ``val`` add what replay retained.
    """

    index: int
    arrived: NDArray[np.int64]
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    ledger: Ledger

    def read(self, role: Role, ids: NDArray[np.int64]) -> DataSplit:
        """Return the samples of ``ids`` in a role."""
        return self.ledger.read(role, ids)

    def excerpt(self, role: Role, ids: NDArray[np.int64]) -> LazySubset:
        """Return the samples of ``ids``, each to be read when it is needed."""
        return self.ledger.excerpt(role, ids)


class Stream:
    """Reveals mega-batches one by one, and lets a replay strategy retain samples of the past.

    The same strategy retains validation samples, separately.
    """

    def __init__(self, source: DataSplit, mega_batches: Sequence[MegaBatch], replay: Replay, seeds: Seeds) -> None:
        self._ledger = Ledger(source)
        self._mega_batches = mega_batches
        self._replay = replay
        self._seeds = seeds
        self._retained = {role: _no_samples(role) for role in ROLES}

    def __len__(self) -> int:
        return len(self._mega_batches)

    def reveal(self, index: int) -> VisibleData:
        """Open mega-batch ``index`` (from 1)."""
        mega_batch = self._mega_batches[index - 1]
        ids = {}
        for role in ROLES:
            self._ledger.reveal(role, getattr(mega_batch, role))
            ids[role] = np.concatenate([self._retained[role].ids, getattr(mega_batch, role)])
        return VisibleData(index, mega_batch.train, ids["train"], ids["val"], self._ledger)

    def scoring_ids(self, score_on: ScoreOn, index: int) -> NDArray[np.int64]:
        """Return the training ids to score on after mega-batch ``index`` is learned and before it is closed.

        ``finished``: those of this mega-batch; ``first``: of the first; ``incoming``: of the next, which is revealed
        now; ``union``: what the next mega-batch will train on, retained samples first.
        """
        if score_on in ("finished", "first"):
            return self._mega_batches[0 if score_on == "first" else index - 1].train
        incoming = self._mega_batches[index].train
        self._ledger.reveal("train", incoming)
        if score_on == "incoming":
            return incoming
        return np.concatenate([self._next_retained("train", index).ids, incoming])

    def retain(self, index: int) -> None:
        """Close mega-batch ``index``: the replay strategy retains its choice, the rest is given up."""
        for role in ROLES:
            self._retained[role] = self._next_retained(role, index)
            self._ledger.give_up_all_but(role, self._retained[role].ids)

    def _next_retained(self, role: Role, index: int) -> Samples:
        ids, before = getattr(self._mega_batches[index - 1], role), self._retained[role]
        arrived = Samples(ids, self._ledger.labels(role, ids), len(ids), role)
        chosen = _retained_ids(self._replay, before, arrived, self._seeds, index)
        return Samples(chosen, self._ledger.labels(role, chosen), before.seen + len(ids), role)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the stream: the retained ids, and how many samples were seen."""
        import torch

        return {
            role: {"ids": torch.from_numpy(samples.ids.copy()), "seen": samples.seen}
            for role, samples in self._retained.items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state`: only the retained samples are readable."""
        for role in ROLES:
            ids = state[role]["ids"].numpy()
            self._ledger.reveal(role, ids)
            self._retained[role] = Samples(ids, self._ledger.labels(role, ids), int(state[role]["seen"]), role)


def simulate_replay(
    labels: NDArray[np.int64], mega_batches: Sequence[MegaBatch], replay: Replay, seeds: Seeds, role: Role = "train"
) -> Iterator[NDArray[np.int64]]:
    """Yield the ids that each mega-batch will train (or validate) on, by a copy of the strategy, on ids alone."""
    replay = copy.deepcopy(replay)  # so that a strategy with memory, against its contract, remembers nothing of this
    retained = _no_samples(role)
    for mega_batch in mega_batches:
        ids = getattr(mega_batch, role)
        yield np.concatenate([retained.ids, ids])
        arrived = Samples(ids, labels[ids], len(ids), role)
        chosen = _retained_ids(replay, retained, arrived, seeds, mega_batch.index)
        retained = Samples(chosen, labels[chosen], retained.seen + len(ids), role)


def _no_samples(role: Role) -> Samples:
    none = np.empty(0, dtype=np.int64)
    return Samples(none, none, 0, role)


def _retained_ids(replay: Replay, retained: Samples, arrived: Samples, seeds: Seeds, index: int) -> NDArray[np.int64]:
    """Ask the strategy, which gets copies; raise ``ComponentError`` if its answer breaks the contract."""
    before, new = (replace(part, ids=part.ids.copy(), labels=part.labels.copy()) for part in (retained, arrived))
    name = component_name(replay)
    with settings_restored(f"the replay strategy {name}"):
        ids = np.array(replay.retain(before, new, seeds.numpy("replay", arrived.role, index)))
    if ids.size == 0:
        ids = ids.astype(np.int64)
    if ids.ndim != 1 or ids.dtype != np.int64:
        raise ComponentError(f"{name} kept {ids.dtype} ids of shape {ids.shape}, not int64 of one dimension")
    if len(np.unique(ids)) != len(ids) and not getattr(replay, "may_repeat", False):
        raise ComponentError(f"{name} kept a sample twice")
    unknown = ids[~np.isin(ids, np.concatenate([retained.ids, arrived.ids]))]
    if len(unknown):
        raise ComponentError(f"{name} kept sample {unknown[0]}, which was neither retained nor new")
    return ids
