"""The samples of a trainer for scoring: read without a trace in the trainer's own loader, sampler and workers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from forgetkit.errors import OptionError


@dataclass(frozen=True)
class ScoringData:
    """Batches of a trainer's loader, each time in the same order.

    A ``DataLoader`` is rebuilt around its dataset, without workers: a second iterator over a loader with persistent
    workers would end the one that the trainer reads, and accelerate's loaders tell the gradient state which of them is
    read. Samplers are copied: their generators begin at ``seed``, their epoch is ``number``, so that a resumed run
    reads the samples of an uninterrupted one.

    Args:
        loader: The trainer's loader, or any iterable of batches.
        seed: Fixes the order of a sampler that has a generator of its own.
        number: The epoch of a sampler that has one.
        prepare: What the trainer does to a batch before a step.
        limit: The most batches that an epoch of the trainer has.
    """

    loader: Iterable[Any]
    seed: int = 0
    number: int = 0
    prepare: Callable[[Any], Any] | None = None
    limit: int | None = None

    def __iter__(self) -> Iterator[Any]:
        batches = itertools.islice(iter(self._apart()), self.limit)
        return batches if self.prepare is None else map(self.prepare, batches)

    def _apart(self) -> Iterable[Any]:
        loader: Any = getattr(self.loader, "base_dataloader", self.loader)  # inside a loader of accelerate
        if type(loader).__iter__ is not DataLoader.__iter__:
            return self.loader
        shared = {"dataset": loader.dataset, "collate_fn": loader.collate_fn}
        if loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset):
            return DataLoader(**shared, batch_sampler=self._copy(loader.batch_sampler))
        if isinstance(loader.dataset, IterableDataset):
            return DataLoader(**shared, batch_size=loader.batch_size, drop_last=loader.drop_last)
        return DataLoader(**shared, batch_size=None, sampler=self._copy(loader.sampler))

    def _copy(self, sampler: Any) -> Any:
        """Copy a sampler and those inside it; they share the data."""
        if isinstance(sampler, list | tuple | range):
            return sampler
        twin = copy.copy(sampler)
        for name, value in vars(sampler).items():
            if isinstance(value, Sampler):
                setattr(twin, name, self._copy(value))
            elif isinstance(value, torch.Generator):
                setattr(twin, name, torch.Generator(value.device).manual_seed(self.seed))
        if callable(getattr(twin, "set_epoch", None)):
            twin.set_epoch(self.number)
        return twin


def require_one_loader(loader: object, trainer: str) -> Iterable[Any]:
    """Return ``loader`` if it is a single iterable of batches.

    Raises:
        OptionError: If the trainer has none, or reads several side by side.
    """
    if isinstance(loader, Iterable) and not isinstance(loader, dict | list | tuple):
        return loader
    what = "no training data" if loader is None else "several loaders side by side"
    raise OptionError(f"{trainer} has {what}: give the batches to score on as batches=")
