"""Trees: how many samples a batch holds, cuts of it, and copies that share nothing."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from forgetkit.errors import OptionError
from forgetkit.unlearning.batches import (
    copy_to,
    count_samples,
    take_samples,
    tensors_in,
)

Pair = namedtuple("Pair", "inputs targets")


@dataclass(frozen=True)
class Record:
    x: Tensor
    name: Any = None


def rows(samples: int, *shape: int) -> Tensor:
    """Tensors whose entries are the number of their row."""
    return torch.arange(samples).float().view(samples, *[1] * len(shape)).expand(samples, *shape).clone()


def detection(*objects: int) -> tuple[Any, Any]:
    """Images of their own sizes, and as many boxes as said: the sizes are no number of samples."""
    images = [torch.full((3, 4 + n, 5), float(n)) for n, _ in enumerate(objects)]
    boxes = [{"boxes": torch.zeros(many, 4), "labels": torch.full((many,), n)} for n, many in enumerate(objects)]
    return images, boxes


TREES: dict[str, tuple[Any, int]] = {
    "pair": ((rows(5, 2), rows(5)), 5),
    "list": ([rows(5, 2), rows(5)], 5),
    "tensor": (rows(5, 2), 5),
    "triple": ((rows(5), rows(5, 1), rows(5, 2, 2)), 5),
    "named": (Pair(rows(5), rows(5)), 5),
    "dict": ({"x": rows(5, 2), "n": {"y": rows(5)}, "text": "a", "none": None, "flag": True, "scalar": rows(1)[0]}, 5),
    "user dict": (UserDict(x=rows(5, 2), y=rows(5)), 5),
    "read-only mapping": (MappingProxyType({"x": rows(5, 2)}), 5),
    "dataclass": (Record(rows(5, 2), "text"), 5),
    "several inputs": ([[rows(5, 2), rows(5, 3)], rows(5)], 5),
    "as many inputs as samples": (([rows(2, 2), rows(2, 3)], rows(2)), 2),
    "list of labels": ((rows(3, 2), [0, 1, 2]), 3),
    "captions": ({"x": rows(3, 2), "captions": ["a", "b", "c"], "classes": ["cat", "dog"]}, 3),
    "array": ((rows(4, 2), np.arange(4)), 4),
    "detection": (detection(2, 0, 1), 3),
    "detection in tuples": (tuple(map(tuple, detection(1, 4))), 2),
    "detection with as many boxes": (detection(3, 3, 3), 3),
    "images of one size": (([torch.zeros(3, 4, 4)] * 2, rows(2)), 2),
    "sparse": ({"x": rows(4, 3).to_sparse(), "y": rows(4)}, 4),
}


@pytest.mark.parametrize(("tree", "samples"), TREES.values(), ids=TREES)
def test_samples_are_counted_cut_and_split(tree, samples):
    assert count_samples(tree) == samples
    assert count_samples(take_samples(tree, slice(1))) == 1
    assert count_samples(take_samples(tree, slice(99))) == samples
    last = take_samples(tree, slice(samples - 1, samples))
    assert type(last) is (dict if isinstance(tree, MappingProxyType) else type(tree))


def test_a_cut_holds_its_own_samples():
    batch = TREES["dict"][0]
    middle = take_samples(batch, slice(1, 3))
    assert middle["x"][:, 0].tolist() == middle["n"]["y"].tolist() == [1, 2]
    assert {key: middle[key] for key in ("text", "none", "flag")} == {"text": "a", "none": None, "flag": True}
    assert middle["scalar"] is batch["scalar"]
    images, boxes = take_samples(detection(2, 0, 5), slice(2, 3))
    assert len(images) == 1
    assert images[0].shape == (3, 6, 5)
    assert boxes[0]["labels"].tolist() == [2] * 5
    captions = take_samples(TREES["captions"][0], slice(2))
    assert (captions["captions"], captions["classes"]) == (["a", "b"], ["cat", "dog"])


def test_copies_share_nothing_and_floats_are_cast():
    inner = UserDict(x=rows(3, 2).double(), n=torch.arange(3))
    batch = (inner, [{"y": rows(3).half()}])
    copied = copy_to(batch, torch.device("cpu"), torch.float32)
    assert [tensor.dtype for tensor in tensors_in(copied)] == [torch.float32, torch.int64, torch.float32]
    for tensor in tensors_in(copied):
        tensor.zero_()
    copied[0]["x"] = None
    assert [float(tensor.sum()) for tensor in tensors_in(batch)] == [6, 3, 3]
    assert isinstance(copied[0], UserDict)


WRONG: dict[str, tuple[Any, str]] = {
    "lengths": (
        ({"ids": rows(4, 2), "mask": rows(3, 2)}, rows(4)),
        r"batch\[0\]\['ids'\] holds 4 and batch.*'mask'\] 3",
    ),
    "sequence first": ((rows(7, 4, 2), rows(4)), r"batch\[0\] holds 7 and batch\[1\] 4"),
    "an object": ({"x": rows(2), "graph": object()}, "object in batch"),
    "packed": (torch.nn.utils.rnn.pack_sequence([rows(3), rows(2)]), "PackedSequence"),
    "nothing": ((), "no samples"),
    "text": ({"x": "a"}, "no samples"),
    "numbers": (3, "no samples"),
}


@pytest.mark.parametrize(("tree", "what"), WRONG.values(), ids=WRONG)
def test_samples_that_cannot_be_counted(tree, what):
    with pytest.raises(OptionError, match=what) as caught:
        count_samples(tree)
    assert "\n" not in str(caught.value)


LEAVES = st.sampled_from(["tensor", "wide", "constant", "none"])
SHAPES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
    max_leaves=6,
)


def grown(shape: Any, samples: int) -> Any:
    match shape:
        case list():
            return tuple(grown(item, samples) for item in shape)
        case dict():
            return {key: grown(item, samples) for key, item in shape.items()}
        case "tensor":
            return rows(samples)
        case "wide":
            return rows(samples, 2, 3)
    return "text" if shape == "constant" else None


@given(shape=SHAPES, samples=st.integers(4, 9), size=st.integers(1, 10))
def test_chunks_of_any_tree_hold_all_samples_once(shape, samples, size):
    tree = {"first": rows(samples), "rest": grown(shape, samples)}
    parts = [take_samples(tree, slice(start, start + size)) for start in range(0, count_samples(tree), size)]
    joined = [torch.cat(pieces) for pieces in zip(*map(tensors_in, parts), strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(joined, tensors_in(tree), strict=True))
