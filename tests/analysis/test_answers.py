"""A stored answer is read back as it was written, or is an error."""

from __future__ import annotations

import pytest

from forgetkit.analysis.answers import answer_from_json, answer_to_json
from forgetkit.contracts import Answer, Measure
from forgetkit.errors import RunDirectoryError


def test_an_answer_is_read_back_equal() -> None:
    content = answer_to_json(Answer(numbers={"a": Measure(0.5, unit="fraction", meaning="half")}, remarks=["one"]))
    assert answer_to_json(answer_from_json(content)) == content


@pytest.mark.parametrize("renamed", ["meaning", "unit", "bounds"])
def test_an_answer_with_a_renamed_entry_is_an_error(renamed: str) -> None:
    content = answer_to_json(Answer(numbers={"a": Measure(0.5, unit="fraction", meaning="half", bounds=(0, 1))}))
    content["numbers"]["a"]["another"] = content["numbers"]["a"].pop(renamed)
    with pytest.raises(RunDirectoryError, match="it holds no answer of an analysis"):
        answer_from_json(content)
