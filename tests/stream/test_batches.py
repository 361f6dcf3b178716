"""Orders, crops and flips, against an image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.contracts import Part
from forgetkit.seeding import Seeds
from forgetkit.stream import Pool, epoch_batches
from forgetkit.stream.batches import Shuffled, batch_bounds


def pool(samples: int = 50, size: int = 16) -> Pool:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (samples, 3, size, size), dtype=np.uint8)  # no black but the padding's
    return Pool.of(Part(images, np.arange(samples)), torch.device("cpu"))


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


def test_shuffled_reads_the_same_each_time() -> None:
    shuffled = Shuffled(pool(), Seeds(4), 16)
    once, twice = ([label for _, labels in shuffled for label in labels.tolist()] for _ in range(2))
    assert once == twice
    assert sorted(once) == list(range(50))
    assert once != list(range(50))
    (inputs, labels) = next(iter(shuffled))
    assert torch.equal(inputs, pool().inputs[labels].float() / 255)
