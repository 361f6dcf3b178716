"""Orders, crops and flips, against an image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.contracts import DataSplit
from forgetkit.data import SamplePool, epoch_batches
from forgetkit.data.batches import ScoringBatches, batch_bounds
from forgetkit.seeding import Seeds


def pool(samples: int = 50, size: int = 16) -> SamplePool:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (samples, 3, size, size), dtype=np.uint8)  # no black but the padding's
    return SamplePool.of(DataSplit(images, np.arange(samples)), torch.device("cpu"))


@given(samples=st.integers(1, 200), size=st.integers(1, 40))
def test_batches_cover_everything_once_and_leave_no_lone_sample(samples: int, size: int) -> None:
    bounds = batch_bounds(samples, size)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(samples))
    lengths = [stop - start for start, stop in bounds]
    assert all(length == size for length in lengths[:-1])
    assert lengths[-1] <= size + 1
    if size > 1 and samples > 1:
        assert lengths[-1] > 1


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "crop-flip"])
def test_each_image_has_a_window_and_a_mirror_of_its_own(augment: str) -> None:
    source = pool()
    windows, mirrored, order = [], [], []
    for inputs, labels in epoch_batches(source, 8, augment, Seeds(1)):
        assert inputs.dtype == torch.float32
        for image, label in zip(inputs, labels.tolist(), strict=True):
            old = source.inputs[label].numpy()
            padded = np.pad(old, ((0, 0), (2, 2), (2, 2)))
            found = [
                (down, across, flip)
                for down in range(5)
                for across in range(5)
                for flip in (False, True)
                for window in [padded[:, down : down + 16, across : across + 16]]
                if np.array_equal(window[:, :, ::-1] if flip else window, (image * 255).round().numpy())
            ]
            assert len(found) == 1, "no crop or mirror image of the original"
            windows.append(found[0][:2])
            mirrored.append(found[0][2])
            order.append(label)
    assert sorted(order) == list(range(50))
    assert order != list(range(50))
    assert (len(set(windows)) > 10) == ("crop" in augment)
    assert (10 < sum(mirrored) < 40) if "flip" in augment else not any(mirrored)
    if "crop" not in augment:
        assert set(windows) == {(2, 2)}


def test_an_epoch_is_a_function_of_its_seeds() -> None:
    def drawn(seed: int) -> torch.Tensor:
        return torch.cat([inputs for inputs, _ in epoch_batches(pool(), 8, "crop-flip", Seeds(seed))])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_augmentation_does_not_shift_the_order() -> None:
    orders = [
        [label for _, labels in epoch_batches(pool(), 8, augment, Seeds(1)) for label in labels.tolist()]
        for augment in ("none", "crop-flip")
    ]
    assert orders[0] == orders[1]


def test_offered_reads_the_same_each_time() -> None:
    offered = ScoringBatches(pool(), Seeds(4), 16)
    once, twice = ([label for _, labels in offered for label in labels.tolist()] for _ in range(2))
    assert once == twice
    assert sorted(once) == list(range(50))
    assert once != list(range(50))
    (inputs, labels) = next(iter(offered))
    assert torch.equal(inputs, pool().inputs[labels].float() / 255)


def test_a_random_offer_is_an_epoch() -> None:
    """The order and the draws are those of training under the same seeds."""
    offered, epoch = (
        ScoringBatches(pool(), Seeds(4), 16, "random", "crop-flip"),
        epoch_batches(pool(), 16, "crop-flip", Seeds(4)),
    )
    for (inputs, labels), (others, theirs) in zip(offered, epoch, strict=True):
        assert torch.equal(inputs, others)
        assert torch.equal(labels, theirs)


@pytest.mark.parametrize("sampling", ["random", "head"])
@pytest.mark.parametrize(("samples", "sizes"), [(50, [16, 16, 16, 2]), (49, [16, 16, 17]), (48, [16] * 3), (1, [1])])
def test_a_lone_last_sample_joins_the_batch_before_it(sampling: str, samples: int, sizes: list[int]) -> None:
    assert [len(labels) for _, labels in ScoringBatches(pool(samples), Seeds(0), 16, sampling)] == sizes


def test_the_head_is_offered_as_it_stands() -> None:
    source = pool()
    batches = list(ScoringBatches(source, Seeds(4), 16, "head"))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(50))
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), source.inputs.float() / 255)
    other = list(ScoringBatches(source, Seeds(5), 16, "head"))
    assert all(torch.equal(a, b) for a, b in zip(batches[0], other[0], strict=True)), "a seed has no say in it"


def test_the_head_may_be_augmented() -> None:
    """In the same order; each image is a window of itself, the same each time and another under another seed."""
    source = pool()

    def images(seed: int) -> torch.Tensor:
        batches = list(ScoringBatches(source, Seeds(seed), 16, "head", "crop-flip"))
        assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(50))
        return torch.cat([inputs for inputs, _ in batches])

    first = images(1)
    assert torch.equal(first, images(1))
    assert not torch.equal(first, images(2))
    padded = torch.nn.functional.pad(source.inputs, (2, 2, 2, 2))
    for image, around in zip((first * 255).round().to(torch.uint8), padded, strict=True):
        windows = [around[:, r : r + 16, c : c + 16] for r in range(5) for c in range(5)]
        assert any(torch.equal(image, w) or torch.equal(image, w.flip(-1)) for w in windows)
    assert not torch.equal(first, source.inputs.float() / 255)
