"""The audit of a data set: each finding where it belongs, and none on sound data."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from forgetkit import training
from forgetkit.contracts import Data, DataSplit
from forgetkit.data import MegaBatch, SamplePool, audit_classes, audit_samples, class_counts, partition
from forgetkit.data import audit as module
from forgetkit.data.audit import summarize
from forgetkit.seeding import Seeds


def images(n, low=0, high=256, seed=0, shape=(3, 6, 6), dtype=np.uint8):
    return np.random.default_rng(seed).integers(low, high, (n, *shape)).astype(dtype)


def data(x=None, y=None, test_x=None, test_y=None, classes=None):
    """Sound images of three classes, but for what is said otherwise."""
    x = images(60) if x is None else x
    test_x = images(30, seed=1, shape=x.shape[1:], dtype=x.dtype) if test_x is None else test_x
    y = np.arange(len(x)) % 3 if y is None else np.asarray(y)
    test_y = np.arange(len(test_x)) % 3 if test_y is None else np.asarray(test_y)
    names = classes or tuple("abcdefghij"[: max(y.max(), test_y.max()) + 1])
    return Data(DataSplit(x, y.astype(np.int64)), DataSplit(test_x, test_y.astype(np.int64)), names)


def cut(held, count=2, split="random"):
    return partition(np.arange(len(held.train)), count, 0.1, split, Seeds(0))


def found(held, count=2, split="random"):
    return [*audit_classes(held, cut(held, count, split), split), *audit_samples(held)]


FLOATS = images(60).astype(np.float32) / 255
MADE = np.random.default_rng(5).normal(size=(60, 4)).astype(np.float32)


def edited(x, index, value):
    changed = x.copy()
    changed[index] = value
    return changed


CASES = {
    "one class": (data(y=[0] * 60, test_y=[0] * 30), ["all training samples are of one class, 'a'"]),
    "a class to test on alone": (
        data(y=np.arange(60) % 2, classes=("a", "b", "c")),
        ["'c' has no training samples, and 10 test samples of it count as errors"],
    ),
    "a class in neither part": (
        data(classes=("a", "b", "c", "d")),
        ["'d' has no training samples: add some"],
    ),
    "a class not to test on": (data(test_y=np.arange(30) % 2), ["'c' has no test samples"]),
    "imbalance": (
        data(y=[0] * 40 + [1] * 16 + [2] * 4),
        ["the class 'a' has 40 training samples and 'c' 4", "--shots 4"],
    ),
    "copies in both parts": (
        data(test_x=np.concatenate([images(27, seed=1), images(60)[10:13]])),
        ["3 of 30 test samples are in the training part too (test sample 27 is training sample 10)"],
    ),
    "copies under two labels": (
        data(edited(images(60), 7, images(60)[2])),
        ["2 training samples are copies of one another under different labels (sample 2 is 'c', 7 is 'b')"],
    ),
    "copies": (
        data(np.concatenate([images(57), images(3)])),
        ["3 of 60 training samples are copies of others"],
    ),
    "one part in 0..255": (
        data(FLOATS, test_x=images(30, seed=1).astype(np.float32)),
        ["on different scales (training 0..1, ", ", test 0..255, "],
    ),
    "one part standardised": (
        data((FLOATS - 0.5) / 0.29, test_x=images(30, seed=1).astype(np.float32) / 255),
        ["on different scales"],
    ),
    "one part dark": (data(test_x=images(30, seed=1) // 8), ["on different scales"]),
    "four samples to test on in 0..255": (
        data(FLOATS, test_x=images(4, seed=1).astype(np.float32)),
        ["on different scales"],
    ),
    "bytes and floats": (
        data(test_x=images(30, seed=1).astype(np.float32) / 255),
        ["the training part is uint8 and the test part float32", "save both alike"],
    ),
    "bytes and floats of one image": (
        data(test_x=np.concatenate([FLOATS[:1], images(29, seed=1).astype(np.float32) / 255])),
        ["is uint8", "1 of 30 test samples is in the training part too (test sample 0 is training sample 0)"],
    ),
    "some samples in 0..1": (
        data(edited(images(60, dtype=np.float32), slice(5), FLOATS[:5]), test_x=images(30, seed=1, dtype=np.float32)),
        ["5 of 60 training samples lie in 0..1 and others reach 255", "images are floats that reach 255"],
    ),
    "floats turned into integers": (
        data(images(60, high=2), test_x=images(30, high=2, seed=1)),
        ["no training pixel is above 1 of 255"],
    ),
    "unscaled floats": (data(images(60, dtype=np.float32)), ["images are floats that reach 255, not pixels in 0..1"]),
    "a channel": (
        data(edited(images(60), (slice(None), 1), 255)),
        ["1 of 3 channels never varies in training (channel 1; 1 of them does in the test part)"],
    ),
    "an alpha": (
        data(edited(images(60), (slice(None), 2), 255), test_x=edited(images(30, seed=1), (slice(None), 2), 255)),
        ["1 of 3 channels never varies in training (channel 2): leave it out"],
    ),
    "features": (
        data(edited(MADE, (slice(None), [0, 3]), 1), test_x=edited(MADE[:30] + 0.01, (slice(None), [0, 3]), 1)),
        ["2 of 4 features never vary in training (feature 0, 3): leave them out"],
    ),
    "nothing": (data(images(60) * 0), ["all training samples are the same 0"]),
    "blank images": (
        data(edited(images(60), [4, 9], 7)),
        ["2 of 60 training samples are one value throughout (sample 4)"],
    ),
    "a feature of other units": (
        data(MADE, test_x=edited(MADE[:30] + 0.01, (slice(None), 2), 300)),
        ["1 of 4 features lie elsewhere in the test part than in training (feature 2"],
    ),
    "features scaled in one part": (
        data(MADE, test_x=(MADE[:30] * [3, 50, 7, 1] + [9, 90, 0, 40]).astype(np.float32)),
        ["4 of 4 features lie elsewhere in the test part"],
    ),
    "names": (data(classes=("Cat", "dog", "cat ")), ["the classes 'Cat' and 'cat ' differ in case or spaces alone"]),
}


@pytest.mark.parametrize(("held", "parts"), CASES.values(), ids=CASES)
def test_what_is_strange_is_said_in_a_line(held, parts):
    lines = found(held)
    for part in parts:
        assert any(part in line for line in lines), lines
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize(
    "held", [data(), data(FLOATS), data(FLOATS * 2 - 1), data(MADE)], ids=lambda held: str(held.train.inputs.dtype)
)
def test_of_sound_data_nothing_is_said(held):
    if held.train.inputs.ndim == 2:
        held = replace(held, test=DataSplit((MADE[::-1] + 0.01)[:30], held.test.labels))
    elif held.train.inputs.dtype != np.uint8:
        low = float(held.train.inputs.min())
        scaled = images(30, seed=1).astype(np.float32) / 255 * (1 - low) + low
        held = replace(held, test=DataSplit(scaled, held.test.labels))
    assert found(held) == []


@pytest.mark.parametrize("spec", ["digits", "synthetic", "synthetic:samples=60,test=20,classes=3,size=4,channels=1"])
def test_of_the_built_in_data_nothing_is_said(spec, tmp_path):
    from forgetkit.contracts import LoadContext
    from forgetkit.registry import registry

    source = registry.load(entry_points=False).make("datasets", spec)[1]
    assert found(source.load(LoadContext(tmp_path, lambda *_: None))) == []


def test_a_class_missing_from_a_mega_batch_is_named():
    held = data(y=np.sort(np.arange(60) % 3))
    (line,) = found(held, 3, "contiguous")
    assert "3 of 3 mega-batches train on no sample of some class (mega-batch 1: none of 'b', 'c')" in line
    assert "sorted by class? use --split random" in line
    assert found(held, 3) == []
    (line,) = audit_classes(
        held, [MegaBatch(1, np.arange(59), np.array([59])), MegaBatch(2, np.arange(0), np.arange(0))]
    )
    assert "1 of 2 mega-batches trains on no sample of some class (mega-batch 2: none of 'a', 'b', 'c')" in line
    assert "use fewer --mega-batches" in line
    counts = class_counts(held, cut(held, 4))
    assert counts.shape == (4, 3)
    assert counts.sum() == sum(len(mega_batch.train) for mega_batch in cut(held, 4))


@given(
    st.one_of(
        arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))),
        arrays(
            np.float32,
            st.tuples(st.integers(1, 9), st.integers(1, 6)),
            elements=st.floats(-(2.0**90), 2.0**90, width=32),
        ),
    ),
    st.data(),
)
def test_odd_data_makes_lines_and_never_an_error(x, draw):
    """And the summary agrees with NumPy in float64."""
    y = np.array(draw.draw(st.lists(st.integers(0, 2), min_size=len(x), max_size=len(x))))
    held = data(x, y, x[::-1][: draw.draw(st.integers(1, len(x)))], classes=("a", "b", "c"))
    for count in {1, len(x)}:
        assert all(isinstance(line, str) for line in found(held, count))
    summary = summarize(held.train)
    flat = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(np.float64)
    np.testing.assert_array_equal(summary.low, flat.min(1))
    np.testing.assert_array_equal(summary.high, flat.max(1))
    np.testing.assert_allclose(summary.mean, flat.mean(1), rtol=1e-6, atol=1e-6 * np.abs(flat).max() + 1e-12)
    np.testing.assert_allclose(summary.std, flat.std(1), rtol=1e-5, atol=1e-6 * np.abs(flat).max() + 1e-12)
    same = [[np.array_equal(a, b) for b in x] for a in x]
    assert (summary.digests[:, None] == summary.digests[None]).tolist() == same


def test_pieces_and_a_large_part_that_is_sampled(monkeypatch):
    held = data(np.concatenate([images(40), images(40)]), np.arange(80) % 40 % 3)
    whole = summarize(held.train)
    monkeypatch.setattr(module, "_AT_ONCE", 3 * held.train.inputs[0].nbytes)
    pieces = summarize(held.train)
    for name in ("low", "high", "mean", "std", "lows", "highs", "digests"):
        np.testing.assert_allclose(getattr(pieces, name).astype(float), getattr(whole, name).astype(float))
    monkeypatch.setattr(module, "_MOST", held.train.inputs.nbytes // 2)
    few = summarize(held.train)
    assert few.ids.tolist() == list(range(0, 80, 2))
    assert any("40 of its 80 samples were looked at" in line for line in audit_samples(held))
    assert any("20 of 40 training samples are copies" in line for line in audit_samples(held))


def test_a_memory_map_is_read_in_pieces(tmp_path):
    np.save(tmp_path / "x.npy", images(60))
    held = data(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert found(held) == []


# --- outputs ---


class Ending(nn.Module):
    """A network that ends in something, perhaps in one mode alone."""

    def __init__(self, end, mode=None):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
        self.end, self.mode = end, mode

    def forward(self, x):
        outputs = self.net(x)
        return self.end(outputs) if self.mode in (None, self.training) else outputs


SUM = "sum to one already"
BETWEEN = "all lie between 0 and 1"


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Ending(lambda x: x.softmax(-1)), f"{SUM}, as after a softmax"),
        (Ending(lambda x: x.softmax(-1), mode=False), f"{SUM}, in eval mode, "),
        (Ending(lambda x: x.softmax(-1), mode=True), f"{SUM}, as"),
        (Ending(lambda x: (x * 0).softmax(-1)), SUM),
        (Ending(lambda x: x.softmax(-1).half()), SUM),
        (Ending(torch.sigmoid), BETWEEN),
        (Ending(lambda x: x), None),
        (Ending(lambda x: x.log_softmax(-1)), None),
        (Ending(lambda x: x * 0), None),
        (Ending(torch.relu), None),
        (Ending(torch.tanh), None),
    ],
)
def test_outputs_that_are_no_logits(network, said):
    torch.manual_seed(0)
    for layer in (network.net[1], network.net[2], network.net[4]):
        layer.reset_parameters()
    drawn = torch.random.get_rng_state()
    pool = SamplePool.of(data().train, torch.device("cpu"))
    lines = training.audit_outputs(network, pool, Seeds(0))
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert len(lines) == (said is not None)
    assert all(said in line for line in lines)


def test_a_copy_under_another_label_counts_once():
    (line,) = found(CASES["copies under two labels"][0])
    assert "under different labels" in line


def test_each_finding_begins_otherwise():
    """A reader who greps for one finds no other."""
    beginnings = sorted({line[:25] for held, _ in CASES.values() for line in found(held)})
    assert all(not b.startswith(a) for a, b in pairwise(beginnings))
