"""Mega-batch after mega-batch: what arrives, what was kept, what is given up."""

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
Kept = dict[Role, Samples]


@dataclass(frozen=True, eq=False)
class VisibleData:
    """What may be used while a mega-batch is the newest.

    ``arrived`` are the training samples it brought, ``train`` and ``val`` those together with what
    replay kept. All are read through the ledger.
    """

    index: int
    arrived: NDArray[np.int64]
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    ledger: Ledger

    def read(self, role: Role, ids: NDArray[np.int64]) -> DataSplit:
        """The samples of ``ids`` in a role."""
        return self.ledger.read(role, ids)

    def excerpt(self, role: Role, ids: NDArray[np.int64]) -> LazySubset:
        """The same, each sample to be read when it is needed."""
        return self.ledger.excerpt(role, ids)


class Stream:
    """Reveals mega-batches one by one and lets a replay strategy keep what it wants of the past.

    Validation samples are kept by the same strategy, in an account of their own.
    """

    def __init__(self, source: DataSplit, mega_batches: Sequence[MegaBatch], replay: Replay, seeds: Seeds) -> None:
        self._ledger = Ledger(source)
        self._mega_batches = mega_batches
        self._replay = replay
        self._seeds = seeds
        self._kept = _nothing_retained()

    def __len__(self) -> int:
        return len(self._mega_batches)

    def reveal(self, index: int) -> VisibleData:
        """Open mega-batch ``index`` (from 1)."""
        mega_batch = self._mega_batches[index - 1]
        for role in ROLES:
            self._ledger.reveal(role, getattr(mega_batch, role))
        pools = {role: np.concatenate([self._kept[role].ids, getattr(mega_batch, role)]) for role in ROLES}
        return VisibleData(index, mega_batch.train, pools["train"], pools["val"], self._ledger)

    def scoring_ids(self, score_on: ScoreOn, index: int) -> NDArray[np.int64]:
        """The training ids to score on once mega-batch ``index`` is learned and before it is closed.

        Those of the mega-batch just ``finished``, of the ``first``, of the ``incoming`` one, which arrives now, or the
        ``union`` that is trained on next: what replay keeps and then what arrives.
        """
        if score_on in ("finished", "first"):
            return self._mega_batches[0 if score_on == "first" else index - 1].train
        incoming = self._mega_batches[index].train
        self._ledger.reveal("train", incoming)
        if score_on == "incoming":
            return incoming
        return np.concatenate([self._next_kept("train", index).ids, incoming])

    def retain(self, index: int) -> None:
        """Close mega-batch ``index``: the strategy keeps its choice, the rest is given up."""
        for role in ROLES:
            self._kept[role] = self._next_kept(role, index)
            self._ledger.give_up_all_but(role, self._kept[role].ids)

    def _next_kept(self, role: Role, index: int) -> Samples:
        ids = getattr(self._mega_batches[index - 1], role)
        arrived = Samples(ids, self._ledger.labels(role, ids), len(ids), role)
        kept = self._kept[role]
        chosen = _retained_ids(self._replay, kept, arrived, self._seeds, index)
        return Samples(chosen, self._ledger.labels(role, chosen), kept.seen + len(ids), role)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the stream: the ids kept and how many have been seen."""
        import torch

        return {
            role: {"ids": torch.from_numpy(kept.ids.copy()), "seen": kept.seen} for role, kept in self._kept.items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a :meth:`state`: only what had been kept is open."""
        for role in ROLES:
            ids = state[role]["ids"].numpy()
            self._ledger.reveal(role, ids)
            self._kept[role] = Samples(ids, self._ledger.labels(role, ids), int(state[role]["seen"]), role)


def simulate_replay(
    labels: NDArray[np.int64], mega_batches: Sequence[MegaBatch], replay: Replay, seeds: Seeds, role: Role = "train"
) -> Iterator[NDArray[np.int64]]:
    """The ids that each mega-batch will train (or validate) on: a copy of the strategy played through on ids alone."""
    replay = copy.deepcopy(replay)  # one that remembers, against its contract, remembers nothing of this
    kept = _nothing_retained()[role]
    for mega_batch in mega_batches:
        ids = getattr(mega_batch, role)
        yield np.concatenate([kept.ids, ids])
        chosen = _retained_ids(replay, kept, Samples(ids, labels[ids], len(ids), role), seeds, mega_batch.index)
        kept = Samples(chosen, labels[chosen], kept.seen + len(ids), role)


def _nothing_retained() -> Kept:
    none = np.empty(0, dtype=np.int64)
    return {role: Samples(none, none, 0, role) for role in ROLES}


def _retained_ids(replay: Replay, kept: Samples, arrived: Samples, seeds: Seeds, index: int) -> NDArray[np.int64]:
    """The ids that the strategy keeps; ``ComponentError`` where it may not keep them.

    It gets copies: what it writes into them, and what they are views of, is nobody else's.
    """
    own, new = (replace(samples, ids=samples.ids.copy(), labels=samples.labels.copy()) for samples in (kept, arrived))
    who = component_name(replay)
    with settings_restored(f"the replay strategy {who}"):
        ids = np.array(replay.retain(own, new, seeds.numpy("replay", arrived.role, index)))
    if ids.size == 0:
        ids = ids.astype(np.int64)
    if ids.ndim != 1 or ids.dtype != np.int64:
        raise ComponentError(f"{who} kept {ids.dtype} ids of shape {ids.shape}, not int64 of one dimension")
    if len(np.unique(ids)) != len(ids) and not getattr(replay, "may_repeat", False):
        raise ComponentError(f"{who} kept a sample twice")
    strangers = ids[~np.isin(ids, np.concatenate([kept.ids, arrived.ids]))]
    if len(strangers):
        raise ComponentError(f"{who} kept sample {strangers[0]}, which was not at hand")
    return ids
