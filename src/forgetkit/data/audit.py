"""The audit of a data set before the first step: class counts, copies, ranges, constant inputs.

Pure functions over arrays. Only the audit and the evaluator read the test part. A finding is a sentence for the user;
none of it reaches the training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgetkit.contracts import Data, DataSplit, Split
from forgetkit.data.partition import MegaBatch
from forgetkit.data.slices import slices_of

_MOST = 1 << 32
"""The most bytes of a part that are read; of a larger part, samples at equal distances."""
_FEW = 4096
"""About the number of samples, at equal distances, that mean and deviation are computed from."""
_AT_ONCE = 1 << 20
"""Bytes of samples that are read at once; as float64 they take eight times as many."""

_IMBALANCE = 10.0
"""Report classes whose sizes differ by this factor."""
_COPIES = 0.01
"""Report copies if more than this fraction of the training samples are copies of others."""
_SHIFT = 2.0
"""Report parts whose deviations differ by this factor."""
_WIDTH = 10.0
"""Report parts whose ranges differ by this factor; ranges are meaningful for few samples too."""
_ENOUGH = 10
"""The fewest samples of each part for which means and deviations are compared."""
_NUMBERS = 16
"""The fewest numbers in a sample for which it is strange that all are the same."""
_NAMED = 3
"""The most classes, features or channels that a finding names."""


@dataclass(frozen=True, eq=False)
class PartSummary:
    """The values of one part, as stored.

    ``low``, ``high``, ``mean`` and ``std`` are float64 by channel (or feature), the last two over about 4,096 samples.
    ``ids`` are the samples that were read, ``lows`` and ``highs`` the least and the greatest number in each, and
    ``digests`` 64 bits of a hash of each.
    """

    samples: int
    ids: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    lows: NDArray[Any]
    highs: NDArray[Any]
    digests: NDArray[np.uint64]

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Whether each sample that was read is a single value throughout."""
        return np.asarray(self.lows == self.highs)

    @property
    def spread(self) -> tuple[float, float]:
        """Mean and standard deviation over all channels together."""
        mean = float(self.mean.mean())
        return mean, float(np.sqrt(max(0.0, float((self.std**2 + self.mean**2).mean()) - mean**2)))


def summarize(part: DataSplit, *, as_floats: bool = False) -> PartSummary:
    """Read a part once, some samples at a time; ``as_floats`` takes pixels as the network gets them, in [0, 1]."""
    inputs = part.inputs
    step = -(-inputs.nbytes // _MOST)
    ids = np.arange(0, len(inputs), step)
    lows, highs, digests = [], [], []
    lowest, highest = np.full(inputs.shape[1], np.inf), np.full(inputs.shape[1], -np.inf)
    for part_slice in slices_of(inputs[::step], _AT_ONCE):
        stored = _as_network_input(inputs[::step][part_slice], as_floats)
        digests.append(b"".join(hashlib.sha256(row.data).digest()[:8] for row in stored.reshape(len(stored), -1)))
        values = stored.reshape(*stored.shape[:2], -1)
        low, high = values.min(axis=2), values.max(axis=2)
        lows.append(low.min(axis=1))
        highs.append(high.max(axis=1))
        lowest, highest = np.minimum(lowest, low.min(axis=0)), np.maximum(highest, high.max(axis=0))
    mean, std = _moments(inputs[:: max(step, len(inputs) // _FEW)], as_floats)
    return PartSummary(
        samples=len(inputs),
        ids=ids,
        low=lowest,
        high=highest,
        mean=mean,
        std=std,
        lows=np.concatenate(lows),
        highs=np.concatenate(highs),
        digests=np.frombuffer(b"".join(digests), dtype=np.uint64),
    )


def _moments(inputs: NDArray[Any], as_floats: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation by channel."""
    count = len(inputs) * int(np.prod(inputs.shape[2:]))
    first = _as_network_input(inputs[:1], as_floats)
    shift = first.reshape(first.shape[1], -1).mean(axis=1, dtype=np.float64)  # sums near zero keep their digits
    total, square = np.zeros_like(shift), np.zeros_like(shift)
    for part_slice in slices_of(inputs, _AT_ONCE):
        stored = _as_network_input(inputs[part_slice], as_floats)
        values = stored.reshape(*stored.shape[:2], -1).astype(np.float64) - shift[:, None]
        total += values.sum(axis=(0, 2))
        square += np.einsum("ncp,ncp->c", values, values)
    return total / count + shift, np.sqrt(np.maximum(square / count - (total / count) ** 2, 0))


def _as_network_input(piece: NDArray[Any], as_floats: bool) -> NDArray[Any]:
    stored = np.ascontiguousarray(piece)
    if stored.dtype != np.uint8:
        return stored + np.float32(0)  # turns -0 into 0
    return stored.astype(np.float32) / np.float32(255) if as_floats else stored


def audit_samples(data: Data) -> tuple[str, ...]:
    """Return one sentence per finding about the samples of a data set."""
    mixed = data.train.inputs.dtype != data.test.inputs.dtype
    train, test = summarize(data.train, as_floats=mixed), summarize(data.test, as_floats=mixed)
    return audit_summaries(data, train, test)


def audit_summaries(data: Data, train: PartSummary, test: PartSummary) -> tuple[str, ...]:
    """Like :func:`audit_samples`, for parts already summarized: with ``as_floats`` if their dtypes differ."""
    images = data.train.inputs.ndim == 4
    return (
        *_unread(train, test),
        *_shared_samples(train, test),
        *_copies(data, train),
        *_ranges(data, train, test, images=images),
        *_constant(train, test, images=images),
        *_blank(data, train, test, images=images),
    )


def audit_classes(data: Data, mega_batches: Sequence[MegaBatch], split: Split = "random") -> tuple[str, ...]:
    """Return one sentence per finding about classes that lack samples, in a mega-batch or in a part."""
    used = np.concatenate([ids for mega_batch in mega_batches for ids in (mega_batch.train, mega_batch.val)])
    train, test = (
        np.bincount(labels, minlength=len(data.classes)) for labels in (data.train.labels[used], data.test.labels)
    )
    counts = class_counts(data, mega_batches)
    return (
        *_missing_classes(data.classes, train, test),
        *_absent_classes(data.classes, counts, split),
        *_similar_names(data.classes),
    )


def class_counts(data: Data, mega_batches: Sequence[MegaBatch]) -> NDArray[np.int64]:
    """Count the training samples of each class in each mega-batch: ``(mega-batches, classes)``."""
    labels = data.train.labels
    return np.stack([np.bincount(labels[mega_batch.train], minlength=len(data.classes)) for mega_batch in mega_batches])


def _missing_classes(classes: Sequence[str], train: NDArray[np.int64], test: NDArray[np.int64]) -> Iterator[str]:
    present = np.flatnonzero(train)
    if len(present) == 1:
        yield (
            f"all training samples are of one class, {_names(classes, present)}: there is nothing to distinguish; add "
            "samples of another"
        )
    missing = np.flatnonzero(train == 0)
    if len(missing):
        errors = int(test[missing].sum())
        wrong = f", and {errors:,} test samples of {_agree(missing, 'it', 'them')} count as errors" if errors else ""
        yield (
            f"{_names(classes, missing)} {_agree(missing, 'has', 'have')} no training samples{wrong}: add some, or "
            f"leave {_agree(missing, 'it', 'them')} out"
        )
    untested = np.flatnonzero((test == 0) & (train > 0))
    if len(untested):
        yield (
            f"{_names(classes, untested)} {_agree(untested, 'has', 'have')} no test samples: the accuracy says nothing "
            f"of {_agree(untested, 'it', 'them')}; add some"
        )
    if len(present) > 1 and train.max() >= _IMBALANCE * train[present].min():
        small, large = int(present[np.argmin(train[present])]), int(np.argmax(train))
        yield (
            f"the class '{classes[large]}' has {train[large]:,} training samples and '{classes[small]}' "
            f"{train[small]:,}: the accuracy says little of small classes; balance them (--shots {train[small]} takes "
            "equally many of each)"
        )


def _absent_classes(classes: Sequence[str], counts: NDArray[np.int64], split: Split) -> Iterator[str]:
    if len(counts) == 1:
        return
    present = np.flatnonzero(counts.sum(axis=0))
    gone = counts[:, present] == 0
    short = np.flatnonzero(gone.any(axis=1))
    if not len(short):
        return
    first = int(short[0])
    lacks = _names(classes, present[np.flatnonzero(gone[first])])
    remedy = (
        "is the training set sorted by class? use --split random"
        if split == "contiguous"
        else "use fewer --mega-batches"
    )
    yield (
        f"{len(short)} of {len(counts)} mega-batches {_agree(short, 'trains', 'train')} on no sample of some class "
        f"(mega-batch {first + 1}: none of {lacks}): {remedy}"
    )


def _similar_names(classes: Sequence[str]) -> Iterator[str]:
    plain: dict[str, str] = {}
    for name in classes:
        other = plain.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            yield f"the classes '{other}' and '{name}' differ in case or spaces alone: are they one?"
            return


def _unread(train: PartSummary, test: PartSummary) -> Iterator[str]:
    for part, name in ((train, "training"), (test, "test")):
        if len(part.ids) < part.samples:
            yield (
                f"the {name} part is large, so {len(part.ids):,} of its {part.samples:,} samples were looked at for "
                "copies and ranges"
            )


def _shared_samples(train: PartSummary, test: PartSummary) -> Iterator[str]:
    both = np.flatnonzero(np.isin(test.digests, train.digests))
    if len(both):
        first = int(both[0])
        twin = int(train.ids[np.argmax(train.digests == test.digests[first])])
        yield (
            f"{len(both):,} of {len(test.ids):,} test samples {_agree(both, 'is', 'are')} in the training part too "
            f"(test sample {int(test.ids[first])} is training sample {twin}): remove them from one part, or the "
            "accuracy counts what was learned by heart"
        )


def _copies(data: Data, train: PartSummary) -> Iterator[str]:
    labels = data.train.labels[train.ids]
    _, group, sizes = np.unique(train.digests, return_inverse=True, return_counts=True)
    least, most = np.full(len(sizes), np.iinfo(np.int64).max), np.full(len(sizes), -1)
    np.minimum.at(least, group, labels)
    np.maximum.at(most, group, labels)
    torn = least != most
    if torn.any():
        members = np.flatnonzero(group == np.argmax(torn))
        one, other = members[0], members[np.argmax(labels[members] != labels[members[0]])]
        yield (
            f"{int(sizes[torn].sum()):,} training samples are copies of one another under different labels (sample "
            f"{int(train.ids[one])} is '{data.classes[labels[one]]}', {int(train.ids[other])} is "
            f"'{data.classes[labels[other]]}'): look at their labels"
        )
    copies = int((sizes[~torn] - 1).sum())
    if copies > _COPIES * len(labels):
        are = "is a copy of another" if copies == 1 else "are copies of others"
        yield (
            f"{copies:,} of {len(labels):,} training samples {are}: remove them, or validation holds "
            "what was trained on"
        )


def _ranges(data: Data, train: PartSummary, test: PartSummary, *, images: bool) -> Iterator[str]:
    kinds = data.train.inputs.dtype, data.test.inputs.dtype
    shown = f"training {_values(train)}, test {_values(test)}"
    if kinds[0] != kinds[1]:
        yield (
            f"the training part is {kinds[0]} and the test part {kinds[1]} (uint8 becomes 0..1, floats stay; so "
            f"{shown}): save both alike"
        )
    elif images and _differs(train, test):
        yield f"training and test values lie on different scales ({shown}): scale both alike"
    elif not images:
        apart = _features_apart(train, test)
        if len(apart):
            at = int(apart[0])
            yield (
                f"{len(apart)} of {len(train.low)} features lie elsewhere in the test part than in training (feature "
                f"{at}: {train.low[at]:g}..{train.high[at]:g} in training, {test.low[at]:g}..{test.high[at]:g} in "
                "test): scale both alike"
            )
    if not images or min(train.low.min(), test.low.min()) < 0:
        return
    for part, name in ((train, "training"), (test, "test")):
        dim = int(((part.highs <= 1) & ~part.blank).sum())
        if part.high.max() > 2 and dim:
            yield (
                f"{dim:,} of {len(part.ids):,} {name} samples lie in 0..1 and others reach {part.high.max():g}: scale "
                "all alike"
            )
    if kinds[0] == kinds[1] == np.uint8 and train.high.max() <= 1 and not train.blank.all():
        yield (
            "no training pixel is above 1 of 255: if floats in 0..1 were turned into integers, save them as float32 or "
            "times 255"
        )
    if kinds[0] == kinds[1] == np.float32 and train.high.max() > 2:
        yield (
            f"images are floats that reach {train.high.max():g}, not pixels in 0..1: scale them, or save pixels as "
            "uint8 (training is not hurt, analyses that change pixels are)"
        )


def _differs(train: PartSummary, test: PartSummary) -> bool:
    """Whether the parts' values differ in scale or in position."""
    widths = sorted(float(part.high.max() - part.low.min()) for part in (train, test))
    if len(train.ids) > 1 and len(test.ids) > 1 and widths[0] > 0 and widths[1] > _WIDTH * widths[0]:
        return True
    if min(len(train.ids), len(test.ids)) < _ENOUGH:
        return False
    (mean, std), (other, its) = train.spread, test.spread
    return abs(mean - other) > max(std, its) or max(std, its) > _SHIFT * min(std, its)


def _features_apart(train: PartSummary, test: PartSummary) -> NDArray[np.int64]:
    """Return features whose ranges do not overlap; or all with another scale, if those are more than half."""
    if min(len(train.ids), len(test.ids)) < _ENOUGH:
        return np.empty(0, dtype=np.int64)
    varied = train.high > train.low
    disjoint = varied & ((test.low > train.high) | (test.high < train.low))
    small, large = np.minimum(train.std, test.std), np.maximum(train.std, test.std)
    scaled = varied & ((np.abs(train.mean - test.mean) > large) | (large > _SHIFT * small))
    return np.flatnonzero(disjoint | scaled if scaled.sum() * 2 > varied.sum() else disjoint)


def _constant(train: PartSummary, test: PartSummary, *, images: bool) -> Iterator[str]:
    still = np.flatnonzero(train.low == train.high)
    if not len(still):
        return
    what = "channel" if images else "feature"
    if len(still) == len(train.low):
        yield f"all training samples are the same {train.low[0]:g}: look at how they were saved"
        return
    moves = int((test.low != test.high)[still].sum() if len(test.ids) > 1 else 0)
    there = f"; {moves} of them {'does' if moves == 1 else 'do'} in the test part" if moves else ""
    yield (
        f"{len(still)} of {len(train.low)} {what}s never {_agree(still, 'varies', 'vary')} in training ({what} "
        f"{_join_words([str(at) for at in still])}{there}): leave {_agree(still, 'it', 'them')} out"
    )


def _blank(data: Data, train: PartSummary, test: PartSummary, *, images: bool) -> Iterator[str]:
    if data.train.inputs[:1].size < _NUMBERS or (train.low == train.high).all():
        return
    for part, name in ((train, "training"), (test, "test")):
        blank = np.flatnonzero(part.blank)
        if len(blank):
            yield (
                f"{len(blank):,} of {len(part.ids):,} {name} samples {_agree(blank, 'is', 'are')} one value "
                f"throughout (sample {int(part.ids[blank[0]])}): "
                + ("were they decoded? remove them" if images else "remove them, if they are empty rows")
            )


def _values(part: PartSummary) -> str:
    mean, std = part.spread
    return f"{part.low.min():g}..{part.high.max():g}, {mean:.3g} ± {std:.2g}"


def _names(classes: Sequence[str], labels: NDArray[Any]) -> str:
    return _join_words([f"'{classes[int(label)]}'" for label in labels])


def _join_words(words: Sequence[str]) -> str:
    more = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _agree(items: NDArray[Any], one: str, several: str) -> str:
    return one if len(items) == 1 else several
