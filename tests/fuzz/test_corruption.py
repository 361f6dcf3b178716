"""A few damaged files; ``python tests/fuzz/corruption.py`` tries a thousand."""

from __future__ import annotations

import dataclasses
import random

import corruption
import pytest
from corruption import TARGETS, Stage, Target
from helpers.fuzz_judging import Answer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [*range(25), *(pytest.param(n, marks=pytest.mark.long) for n in range(25, 100))])
def test_a_damaged_file(stage, number):
    verdict = corruption.one(stage, 0, number)
    assert not verdict.wrong, verdict


def test_some_of_each_kind_are_among_them():
    drawn = [
        random.Random(f"0/{number}").choices(TARGETS, [t.weight for t in TARGETS])[0].name for number in range(1000)
    ]
    assert {target.name for target in TARGETS} == set(drawn)
    assert min(drawn.count(name) for name in set(drawn)) >= 10


@pytest.fixture
def judged(stage):
    """How an answer to a bit flipped in the newest state of a run is judged; the run has come to what it should."""

    def call(answer: Answer, of: Stage = stage, target: Target = TARGETS[0]) -> str:
        file = corruption.Path("runs/cut/checkpoints/resume-003-0000.pt")
        return corruption._judged(of, target, file, b"0", b"1", answer)[1]

    corruption.command(TARGETS[0].words)
    return call


def test_the_judge_sees_what_is_wrong(stage, judged):
    named = "forgetkit: runs/cut/checkpoints/resume-003-0000.pt is damaged"
    assert judged(Answer(0, "", f"{named}\n")) == ""
    assert judged(Answer(2, "", f"{named}; start a new run\n")) == ""
    assert judged(Answer(0, "", "")) == "recovered without a word"
    assert judged(Answer(2, "", f"{named}\n")) == "it is not said what to do"
    assert judged(Answer(2, "", "forgetkit: start a new run\n")) == "the file is not named"
    assert judged(Answer(2, "", f"{named}; start a new run\n" * 2)) == "2 lines"
    assert judged(Answer(1, "", "", "a traceback")) == "a traceback"
    result, models = stage.references[TARGETS[0].name]
    wrong = dataclasses.replace(stage, references={TARGETS[0].name: ({**result, "test_accuracy": 0.99}, models)})
    assert judged(Answer(0, "", f"{named}\n"), wrong) == "another result than undisturbed"
