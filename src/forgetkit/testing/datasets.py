"""What a data set promises."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np

from forgetkit.contracts import Augmentation, Data, DataSplit, LoadContext
from forgetkit.seeding import seeded_rng
from forgetkit.testing import comparing
from forgetkit.testing.common import KitCase
from forgetkit.testing.promise import Failure, NotApplicable, Promise, promise


@contextmanager
def _load(case: KitCase, *, seed: int = 0, folder: Path | None = None) -> Iterator[Data]:
    """The data set, loaded with an empty cache or with ``folder``, which lasts as long as it is looked at."""
    with tempfile.TemporaryDirectory() as new:
        with seeded_rng(seed):
            data = case.another().load(LoadContext(folder or Path(new), _quiet))
        if not isinstance(data, Data):
            raise Failure(f"load() returned {type(data).__name__}, not Data")
        yield data


def _quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody follows."""


def _parts(data: Data) -> Iterator[tuple[str, DataSplit]]:
    yield "train", data.train
    yield "test", data.test


@contextmanager
def _sound(case: KitCase, **how: Any) -> Iterator[Data]:
    """The data set, for a promise that is not about the form of its parts."""
    with _load(case, **how) as data:
        try:
            _check_parts(data)
        except Failure as broken:
            raise NotApplicable("the promise 'parts' is broken") from broken
        yield data


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


def runs(case: KitCase) -> None:
    """`load(context)` returns `Data`."""
    with _load(case):
        return


def parts(case: KitCase) -> None:
    """Both parts hold samples: uint8 or float32 inputs, and as many int64 labels of one dimension."""
    with _load(case) as data:
        _check_parts(data)


def alike(case: KitCase) -> None:
    """Test samples have the shape and the type of training samples."""
    with _sound(case) as data:
        train, test = data.train.inputs, data.test.inputs
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise Failure(
                f"training samples are {train.dtype} of shape {train.shape[1:]}, test samples {test.dtype} of shape "
                f"{test.shape[1:]}"
            )


def classes(case: KitCase) -> None:
    """There are two classes or more, in a tuple of names that differ."""
    with _load(case) as data:
        names = data.classes
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise Failure("the names of the classes are no tuple of texts")
        if len(names) < 2 or len(set(names)) != len(names):
            raise Failure(
                f"{len(names)} names of classes, {len(set(names))} of them different; there must be two or more"
            )


def labels(case: KitCase) -> None:
    """Each label is the place of a class, from 0."""
    with _sound(case) as data:
        for name, part in _parts(data):
            if int(part.labels.min()) < 0 or int(part.labels.max()) >= len(data.classes):
                low, high = int(part.labels.min()), int(part.labels.max())
                raise Failure(
                    f"the {name} part's labels go from {low} to {high}, and there are {len(data.classes)} classes"
                )


def finite(case: KitCase) -> None:
    """No input is NaN or infinite."""
    with _sound(case) as data:
        for name, part in _parts(data):
            if not np.isfinite(part.inputs).all():
                raise Failure(f"the {name} part's inputs hold NaN or infinity")


def augment(case: KitCase) -> None:
    """The augmentation is one that there is, and `none` for samples that are no images."""
    with _sound(case) as data:
        if data.augment not in get_args(Augmentation):
            raise Failure(f"the augmentation '{data.augment}' is none of {', '.join(get_args(Augmentation))}")
        if data.augment != "none" and data.train.inputs.ndim != 4:
            raise Failure(f"samples of shape {data.train.inputs.shape[1:]} are no images, so augment is none")


def deterministic(case: KitCase) -> None:
    """The same options give the same samples in the same order, from an empty cache and from a filled one."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _sound(case, folder=Path(folder)) as first,
        _sound(case, folder=Path(folder)) as again,
        _sound(case) as elsewhere,
    ):
        if not _same(first, again) or not _same(first, elsewhere):
            raise Failure("loaded again, the samples or their order are others")


def own_randomness(case: KitCase) -> None:
    """The global random state has no part in the samples and is left as it was."""
    with _sound(case) as data, _sound(case) as again:
        if not _same(data, again):
            raise NotApplicable("the promise 'deterministic' is broken")
    with _sound(case, seed=1) as one, _sound(case, seed=2) as other:
        if not _same(one, other):
            raise Failure("the samples vary with the global random state; draw from a generator of your own")
    with tempfile.TemporaryDirectory() as folder, comparing.watch_random_state():
        case.another().load(LoadContext(Path(folder), _quiet))


def leaves_settings(case: KitCase) -> None:
    """The process-wide settings of torch and NumPy (default dtype, grad mode, autocast …) are as they were."""
    with tempfile.TemporaryDirectory() as folder, comparing.watch_settings():
        case.another().load(LoadContext(Path(folder), _quiet))


def _same(one: Data, other: Data) -> bool:
    return all(
        comparing.same_bits(np.asarray(a), np.asarray(b))
        for (_, mine), (_, theirs) in zip(_parts(one), _parts(other), strict=True)
        for a, b in ((mine.inputs, theirs.inputs), (mine.labels, theirs.labels))
    )


def promises() -> tuple[Promise, ...]:
    """In the order in which they are looked at."""
    return promise(
        "datasets",
        *(runs, parts, alike, classes, labels, finite, augment),
        *(deterministic, own_randomness, leaves_settings),
    )
