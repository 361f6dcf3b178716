"""What is the same to the bit, and what is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from forgetkit.testing import comparing

SAME = [
    (torch.tensor([0.0, -0.0, torch.nan]), torch.tensor([0.0, -0.0, torch.nan])),
    (torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3).t().contiguous().t()),
    (torch.zeros(0, 3), torch.zeros(0, 3)),
    (torch.tensor(True), torch.tensor(True)),
    (torch.tensor([1 + 1j]).conj(), torch.tensor([1 - 1j])),
    (torch.tensor(2.0, requires_grad=True), torch.tensor(2.0)),
    (np.array([np.nan, -0.0]), np.array([np.nan, -0.0])),
    ({"a": [1, (math.nan, "b")]}, {"a": [1, (math.nan, "b")]}),
    (None, None),
]
DIFFERENT = [
    (torch.tensor(0.0), torch.tensor(-0.0)),
    (torch.tensor([1.0, 0.0]), torch.tensor([1.0, -0.0])),
    (torch.zeros(2, dtype=torch.bfloat16), -torch.zeros(2, dtype=torch.bfloat16)),
    (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    (torch.tensor(1.0), 1.0),
    (np.zeros(1), -np.zeros(1)),
    ({"a": 0.0}, {"a": -0.0}),
    ([0.0], (-0.0,)),
    ([0.0], [0.0, 0.0]),
    (1, 1.0),
    (1, True),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same(one: Any, other: Any) -> None:
    assert comparing.same_bits(one, other)
    assert comparing.same_bits(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_not_the_same(one: Any, other: Any) -> None:
    assert not comparing.same_bits(one, other)
    assert not comparing.same_bits(other, one)


@pytest.mark.parametrize("at", range(32))
def test_a_single_bit_shows(at: int) -> None:
    def flipped(value: Tensor) -> Tensor:
        return (value.view(torch.int32) ^ torch.tensor(1 << at).to(torch.int32)).view(torch.float32)

    value = torch.tensor([1.5])
    assert not comparing.same_bits(value, flipped(value))
    assert comparing.same_bits(value, flipped(flipped(value)))
