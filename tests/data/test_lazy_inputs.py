"""Samples that stay where they are: the same batches to the bit, through the ledger alone, a few bytes at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.format import open_memmap

from forgetkit import training
from forgetkit.contracts import Data, DataSplit
from forgetkit.data import LazySubset, Ledger, SamplePool, check_data, content_digest, epoch_batches
from forgetkit.data import batches as batches_module
from forgetkit.data import ledger as ledger_module
from forgetkit.data import validation as check_module
from forgetkit.data.batches import LazyInputs, ScoringBatches
from forgetkit.data.ledger import take
from forgetkit.errors import DataError, LeakError
from forgetkit.seeding import Seeds
from forgetkit.system import memory

CPU = torch.device("cpu")
SAMPLES = 60


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fits into what memory is left."""
    monkeypatch.setattr(memory, "available", lambda device: 0)


def part(kind: str, path: Path) -> DataSplit:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SAMPLES, 3, 8, 8), dtype=np.uint8)
    inputs = rng.random((SAMPLES, 5), np.float32) if kind == "features" else images
    if kind == "mapped":
        mapped = open_memmap(path / "x.npy", "w+", images.dtype, images.shape)
        mapped[:] = images
        mapped.flush()
        inputs = np.load(path / "x.npy", mmap_mode="r")
    if kind == "channels last":
        inputs = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return DataSplit(inputs, rng.integers(0, 4, SAMPLES))


def both(source: DataSplit, ids: np.ndarray) -> tuple[SamplePool, SamplePool]:
    """The same samples afar and at hand."""
    ledger = Ledger(source)
    ledger.reveal("train", ids)
    afar = SamplePool.fitting(ledger.excerpt("train", ids), CPU)
    assert isinstance(afar.inputs, LazyInputs)
    return afar, SamplePool.of(ledger.read("train", ids), CPU)


@pytest.mark.parametrize("kind", ["array", "mapped", "channels last", "features"])
@pytest.mark.usefixtures("cramped")
def test_what_is_read_from_afar_is_the_same_to_the_bit(kind: str, tmp_path: Path) -> None:
    ids = np.random.default_rng(1).permutation(SAMPLES)[:41]
    ids[7] = ids[3]  # a replay strategy may repeat
    afar, near = both(part(kind, tmp_path), ids)
    assert len(afar) == len(near) == 41
    assert afar.inputs.shape == near.inputs.shape
    for augment in ("none",) if kind == "features" else ("none", "crop-flip"):
        for seen in (
            lambda pool, augment=augment: epoch_batches(pool, 8, augment, Seeds(1), 37, first=1),
            lambda pool, augment=augment: ScoringBatches(pool, Seeds(2), 8, "random", augment),
            lambda pool, augment=augment: ScoringBatches(pool, Seeds(2), 8, "head", augment),
            lambda pool: pool.in_order(9),
        ):
            pairs = list(zip(seen(afar), seen(near), strict=True))
            assert len(pairs) > 3
            for (inputs, labels), (others, theirs) in pairs:
                assert torch.equal(inputs, others)
                assert inputs.stride() == others.stride()
                assert torch.equal(labels, theirs)
    assert training.measure_normalization(afar, 4) == training.measure_normalization(near, 4)


@pytest.mark.usefixtures("cramped")
def test_each_batch_is_read_when_it_is_due_and_nothing_else_ever() -> None:
    source, read = part("array", Path()), []
    excerpt = LazySubset.whole(source)
    watched = LazySubset.of(source, excerpt.ids, excerpt.labels, lambda ids: read.append(ids) or take(source, ids))
    pool = SamplePool.fitting(watched, CPU)
    assert read == []
    for number, (_, labels) in enumerate(epoch_batches(pool, 16, "crop-flip", Seeds(0)), 1):
        assert len(read) == number
        assert source.labels[read[-1]].tolist() == labels.tolist()
    assert sorted(np.concatenate(read)) == list(range(SAMPLES))


@pytest.mark.usefixtures("cramped")
def test_a_pool_that_outlives_its_mega_batch_cannot_be_read() -> None:
    ledger = Ledger(part("array", Path()))
    ledger.reveal("train", np.arange(30))
    pool = SamplePool.fitting(ledger.excerpt("train", np.arange(30)), CPU)
    batches = epoch_batches(pool, 10, "none", Seeds(0))
    next(batches)
    ledger.give_up_all_but("train", np.arange(2))
    with pytest.raises(LeakError, match="given up"):
        next(batches)
    with pytest.raises(LeakError, match="has not arrived"):
        ledger.excerpt("train", np.arange(31))
    with pytest.raises(LeakError, match="validation"):
        ledger.excerpt("val", np.arange(2))


@pytest.mark.parametrize(("share", "far"), [(0.9, False), (1.1, True)])
def test_a_quarter_of_what_is_left_is_the_limit(share: float, far: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    source = part("array", Path())
    monkeypatch.setattr(memory, "available", lambda device: int(4 * source.inputs.nbytes / share))
    assert isinstance(SamplePool.fitting(LazySubset.whole(source), CPU).inputs, LazyInputs) is far
    monkeypatch.setattr(memory, "available", lambda device: None)
    assert isinstance(SamplePool.fitting(LazySubset.whole(source), CPU).inputs, torch.Tensor), "nobody knows: as it was"


@pytest.mark.parametrize("kind", ["array", "mapped", "channels last", "features"])
def test_to_another_device_samples_go_a_piece_at_a_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, read = part(kind, tmp_path), []
    ids = np.random.default_rng(1).permutation(SAMPLES)[:41]
    own = LazySubset.of(source, ids, source.labels[ids], lambda some: read.append(len(some)) or take(source, some))
    monkeypatch.setattr(memory, "available", lambda device: None)
    monkeypatch.setattr(batches_module, "_AT_ONCE", 8 * own.sample_bytes)
    there = SamplePool.fitting(own, torch.device("meta"))
    assert read == [0, 8, 8, 8, 8, 8, 1]
    here, near = batches_module._load_to_device(own, CPU), SamplePool.fitting(own, CPU)
    assert torch.equal(here, near.inputs)
    for one in (here, there.inputs):
        assert (one.shape, one.dtype, one.stride()) == (near.inputs.shape, near.inputs.dtype, near.inputs.stride())
    assert (there.labels.shape, there.labels.dtype) == (near.labels.shape, near.labels.dtype)


@given(ids=st.lists(st.integers(0, SAMPLES - 1), max_size=90))
def test_a_memory_map_is_read_in_file_order(ids: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    looked: list[np.ndarray] = []

    class Watched(np.memmap):
        def __getitem__(self, index):
            looked.append(index)
            return super().__getitem__(index)

    mapped = part("mapped", tmp_path_factory.mktemp("map"))
    wanted = np.asarray(ids, dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "_AT_ONCE", 40 * mapped.inputs[0].nbytes)
        found = take(DataSplit(mapped.inputs.view(Watched), mapped.labels), wanted)
    assert np.array_equal(found.inputs, np.asarray(mapped.inputs)[wanted])
    assert np.array_equal(found.labels, mapped.labels[wanted])
    assert found.inputs.flags.c_contiguous
    pieces = [index for index in looked if isinstance(index, np.ndarray)]
    assert [len(piece) for piece in pieces] == [40, len(ids) - 40] if len(ids) > 40 else len(pieces) <= 1
    for piece, start in zip(pieces, (0, 40), strict=False):
        assert np.array_equal(piece, np.sort(wanted[start : start + 40]))


@pytest.mark.parametrize("kind", ["array", "channels last", "features"])
def test_all_samples_are_looked_at_by_bytes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest and the numbers are those of the whole, however small the pieces."""
    source = part(kind, Path())
    data = Data(source, source, ("a", "b", "c", "d"))
    expected = hashlib.sha256()
    for one in (source, source):
        expected.update(repr((SAMPLES, one.inputs.dtype.str, one.inputs.shape)).encode())
        expected.update(one.labels.tobytes() + one.inputs.tobytes())
    before, digest = training.measure_normalization(SamplePool.of(source, CPU), 4), content_digest(data)
    assert digest == expected.hexdigest()

    largest: list[int] = []
    in_order = SamplePool.in_order
    monkeypatch.setattr(SamplePool, "in_order", lambda pool, size: largest.append(size) or in_order(pool, size))
    one = source.inputs[0].size
    monkeypatch.setattr(batches_module, "_AT_ONCE", 7 * 4 * one)
    monkeypatch.setattr(check_module, "_AT_ONCE", 7 * source.inputs[0].nbytes)
    assert content_digest(data) == digest
    after = training.measure_normalization(SamplePool.of(source, CPU), 4)
    assert largest == [7]
    assert np.allclose((after.mean, after.std), (before.mean, before.std), rtol=1e-12)
    monkeypatch.setattr(batches_module, "_AT_ONCE", 1)
    assert SamplePool.of(source, CPU).at_most(512) == 2, "one alone would say nothing of its spread"
    if kind == "features":
        source.inputs[SAMPLES - 2, 1] = np.nan
        with pytest.raises(DataError, match=f"sample {SAMPLES - 2} holds NaN"):
            check_data(data, "these")
