"""The promises of data sets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np

from forgetkit.contracts import Augmentation, Data, DataSplit, LoadContext
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing, rows
from forgetkit.testing.case import KitCase
from forgetkit.testing.promise import Failure, NotApplicable, row


@dataclass(frozen=True, eq=False)
class DatasetCase(KitCase):
    """A data set under examination."""

    generator: ClassVar[str] = "a generator of its own"

    @contextmanager
    def loaded(self, seed: int = 0, folder: Path | None = None) -> Iterator[Data]:
        """Yield the data, loaded with the cache ``folder`` or with an empty one that is removed afterwards."""
        with tempfile.TemporaryDirectory() as new:
            with seeded_rng(seed):
                data = self.another().load(LoadContext(folder or Path(new), _no_progress))
            if not isinstance(data, Data):
                raise Failure(f"load() returned {type(data).__name__}, not Data")
            yield data

    @contextmanager
    def valid(self, seed: int = 0, folder: Path | None = None) -> Iterator[Data]:
        """As :meth:`loaded`, for a promise that needs parts in the right form."""
        with self.loaded(seed, folder) as data:
            try:
                _check_parts(data)
            except Failure as broken:
                raise NotApplicable("the promise 'parts' is broken") from broken
            yield data

    def act(self) -> None:
        """Load the data once."""
        with tempfile.TemporaryDirectory() as folder:
            self.another().load(LoadContext(Path(folder), _no_progress))

    @cached_property
    def repeats(self) -> bool:
        """Whether two loads agree."""
        with self.valid() as one, self.valid() as other:
            return _same(one, other)

    def variation(self, given: Any = None) -> str:
        """Return what differs between two global random states, or an empty text."""
        with self.valid(seed=1) as one, self.valid(seed=2) as other:
            return "" if _same(one, other) else "the data"


def _no_progress(what: str, done: int, total: int) -> None:
    pass


def _parts(data: Data) -> Iterator[tuple[str, DataSplit]]:
    yield "train", data.train
    yield "test", data.test


def _check_parts(data: Data) -> None:
    for name, part in _parts(data):
        inputs, labels = part.inputs, part.labels
        if not isinstance(inputs, np.ndarray) or inputs.dtype not in (np.uint8, np.float32) or inputs.ndim < 2:
            raise Failure(f"the {name} part's inputs are no array of uint8 or float32 with a dimension for the samples")
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.ndim != 1:
            raise Failure(f"the {name} part's labels are no int64 array of one dimension")
        if len(inputs) != len(labels):
            raise Failure(f"the {name} part has {len(inputs)} inputs and {len(labels)} labels")
        if not len(labels):
            raise Failure(f"the {name} part is empty")


def runs(case: DatasetCase) -> None:
    """`load(context)` returns `Data`."""
    with case.loaded():
        return


def parts(case: DatasetCase) -> None:
    """Both parts hold samples: uint8 or float32 inputs, and as many int64 labels of one dimension."""
    with case.loaded() as data:
        _check_parts(data)


def alike(case: DatasetCase) -> None:
    """Test samples have the shape and dtype of training samples."""
    with case.valid() as data:
        train, test = data.train.inputs, data.test.inputs
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise Failure(
                f"training samples are {train.dtype} of shape {train.shape[1:]}, test samples {test.dtype} of shape "
                f"{test.shape[1:]}"
            )


def classes(case: DatasetCase) -> None:
    """There are two classes or more, in a tuple of distinct names."""
    with case.loaded() as data:
        names = data.classes
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise Failure("the names of the classes are not a tuple of strings")
        if len(names) < 2 or len(set(names)) != len(names):
            raise Failure(
                f"{len(names)} names of classes, {len(set(names))} of them different; there must be two or more"
            )


def labels(case: DatasetCase) -> None:
    """Each label is the index of a class, from 0."""
    with case.valid() as data:
        for name, part in _parts(data):
            if int(part.labels.min()) < 0 or int(part.labels.max()) >= len(data.classes):
                low, high = int(part.labels.min()), int(part.labels.max())
                raise Failure(
                    f"the {name} part's labels go from {low} to {high}, and there are {len(data.classes)} classes"
                )


def finite(case: DatasetCase) -> None:
    """No input is NaN or infinite."""
    with case.valid() as data:
        for name, part in _parts(data):
            if not np.isfinite(part.inputs).all():
                raise Failure(f"the {name} part's inputs hold NaN or infinity")


def augment(case: DatasetCase) -> None:
    """The augmentation exists, and is `none` for samples that are not images."""
    with case.valid() as data:
        if data.augment not in get_args(Augmentation):
            raise Failure(f"the augmentation '{data.augment}' is none of {', '.join(get_args(Augmentation))}")
        if data.augment != "none" and data.train.inputs.ndim != 4:
            raise Failure(f"samples of shape {data.train.inputs.shape[1:]} are not images; say augment='none'")


def deterministic(case: DatasetCase) -> None:
    """The same options give the same samples in the same order, with an empty and with a filled cache."""
    with (
        tempfile.TemporaryDirectory() as folder,
        case.valid(folder=Path(folder)) as first,
        case.valid(folder=Path(folder)) as again,
        case.valid() as elsewhere,
    ):
        if not _same(first, again) or not _same(first, elsewhere):
            raise Failure("two loads give other samples or another order; draw from a generator with a fixed seed")


def _same(one: Data, other: Data) -> bool:
    return all(
        comparing.same_bits(np.asarray(a), np.asarray(b))
        for (_, mine), (_, theirs) in zip(_parts(one), _parts(other), strict=True)
        for a, b in ((mine.inputs, theirs.inputs), (mine.labels, theirs.labels))
    )


PROMISES = (
    *map(row, (runs, parts, alike, classes, labels, finite, augment, deterministic)),
    rows.own_randomness("The global random state neither changes the samples nor is changed."),
    rows.LEAVES_SETTINGS,
)
