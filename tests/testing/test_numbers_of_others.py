"""Numbers that other people's code returns: each scalar is the number it holds, and nothing else is one."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgetkit.analysis import answers
from forgetkit.contracts import Answer, Chart, Measure, Series, as_number
from forgetkit.errors import ComponentError

WHOLE = (
    np.int8,
    np.int64,
    np.uint16,
    np.array,
    torch.tensor,
    lambda v: torch.tensor(v).int(),
)
BROKEN = (np.float64, np.array, torch.tensor, lambda v: torch.tensor(v, dtype=torch.float64, requires_grad=True))


@given(st.integers(0, 100), st.sampled_from(WHOLE))
def test_a_whole_scalar_is_a_plain_int(number, scalar):
    held = as_number(scalar(number))
    assert (held, type(held)) == (number, int)


@given(st.floats(-1e6, 1e6, width=32), st.sampled_from((*BROKEN, np.float32, np.longdouble)))
def test_any_other_scalar_is_a_plain_float(number, scalar):
    held = as_number(scalar(number))
    assert (held, type(held)) == (number, float)


@pytest.mark.parametrize(
    "value",
    [True, np.True_, torch.tensor(True), "1", None, [1], np.ones(1), torch.ones(1, 1), 1j, np.complex64(1), Decimal(1)],
    ids=repr,
)
def test_what_is_no_single_number_is_none(value):
    with pytest.raises(TypeError, match="not a number"):
        as_number(value)


def test_an_answer_of_scalars_is_written_in_plain_numbers():
    answer = Answer(
        numbers={"a": np.float32(0.5), "b": Measure(torch.tensor(2), "lower"), "c": None, "d": Fraction(1, 4)},
        charts=[
            Chart("k", "", "x", "y", [Series("s", np.arange(2), torch.tensor([0.5, 1.0]), np.zeros(2, np.float32))])
        ],
        details={"of": {"each": [np.int64(3), torch.tensor(0.5)]}},
    )
    plain = json.loads(json.dumps(answers.answer_to_json(answer), allow_nan=False))
    assert {key: one["value"] for key, one in plain["numbers"].items()} == {"a": 0.5, "b": 2, "c": None, "d": 0.25}
    series = plain["charts"][0]["series"][0]
    assert (series["x"], series["y"], series["spread"]) == ([0, 1], [0.5, 1.0], [0.0, 0.0])
    assert plain["details"] == {"of": {"each": [3, 0.5]}}


@pytest.mark.parametrize("value", [True, np.ones(1), "1", np.float32("nan")], ids=repr)
def test_an_answer_with_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(ComponentError, match="the number 'a' of the answer is "):
        answers.answer_to_json(Answer({"a": value}))
