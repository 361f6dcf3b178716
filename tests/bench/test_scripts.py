"""What the scripts in benchmarks/ compare, without timing anything."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from forgetkit.contracts import Checkpointed, EpochEnded, MegaBatchRevealed, RunStarted

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script():
    """Runs a script of that name but for its main; gives what it defines, to be patched."""
    return lambda name: runpy.run_path(str(FOLDER / f"{name}.py"))["main"].__globals__


def test_every_script_is_described() -> None:
    described = set(re.findall(r"`python benchmarks/(\w+)\.py", (FOLDER / "README.md").read_text(encoding="utf-8")))
    assert described == {path.stem for path in FOLDER.glob("*.py")}


def test_a_step_is_compared_at_equal_precision_and_as_a_run_does_it(script) -> None:
    limits, seen = script("limits"), []
    limits["chosen_precision"] = lambda work: "bf16"

    def noted(model, optimizer, inputs, labels, *, bf16) -> None:
        weights = next(p for p in model.parameters() if p.ndim == 4)
        seen.append((bf16, weights.is_contiguous(memory_format=torch.channels_last)))

    limits["step"] = noted
    steps = [row for row in limits["augmented"]() if "step" in row[1]]
    for case, _, reference, ours in steps:
        assert case == "augmented"
        reference()
        ours()
    assert seen == [(False, False), (False, True), (False, False), (True, True)]
    assert len({part for _, part, _, _ in steps}) == 2


def test_what_ours_prepares_for_a_mega_batch_counts_and_what_it_saves_does_not(script) -> None:
    avalanche, now = script("avalanche_naive"), [0.0]
    avalanche["time"] = SimpleNamespace(perf_counter=lambda: now[0])
    watch = avalanche["Watch"]()
    started = RunStarted("", "", "", {}, 1, 2, 1, (10, 10))
    revealed, saved = MegaBatchRevealed(1, 10, 10, 0), Checkpointed(1, 1, "")
    ended = EpochEnded(1, 1, 1, 0.0, 0.0, 0.0, 10, 0.0)
    took = [(started, 1000), (revealed, 1), (ended, 10), (saved, 500), (revealed, 2), (ended, 20)]
    for event, seconds in took:
        now[0] += seconds
        watch.notify(event)
    assert (watch.seconds, watch.samples) == (1 + 10 + 2 + 20, 20)


@pytest.mark.parametrize(("theirs", "met"), [(2.8, True), (2.7, False)])
def test_the_record_says_whether_the_target_is_met(script, monkeypatch, capsys, theirs, met) -> None:
    avalanche, told = script("avalanche_naive"), []

    def ours(epochs, options):
        told.append(options)
        return (2.5 if options else 2.0), epochs * 1437, 5.0

    avalanche |= {"ours": ours, "theirs": lambda train, epochs: (theirs, epochs * len(train))}
    avalanche |= {"version": lambda name: "1", "logging": SimpleNamespace(disable=lambda: None)}
    monkeypatch.setattr(sys, "argv", ["avalanche_naive.py", "--json", "--repetitions", "2", "--epochs", "3"])
    avalanche["main"]()
    record = json.loads(capsys.readouterr().out)
    assert (record["target"], record["ratio"], record["met"]) == (1.4, pytest.approx(theirs / 2), met)
    assert record["ratios"] == pytest.approx({"forgetkit": theirs / 2, "forgetkit, contiguous fp32": theirs / 2.5})
    rows = {row["side"]: (row["seconds"], row["times as fast"]) for row in record["cases"]}
    assert rows["forgetkit, the whole run"] == pytest.approx((5, theirs / 5))
    assert rows["avalanche"] == pytest.approx((theirs, 1))
    assert {len(times) for times in record["seconds"].values()} == {2}
    assert {} in told
    assert {"memory_format": "contiguous", "precision": "fp32"} in told
