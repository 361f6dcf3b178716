"""What the other scripts in benchmarks/ compare, by a fake clock."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import avalanche_naive
import limits
import pytest
import torch

from forgetkit.contracts import Checkpointed, EpochEnded, MegaBatchRevealed, RunStarted

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_every_script_is_described() -> None:
    described = set(re.findall(r"`python benchmarks/(\w+)\.py", (FOLDER / "README.md").read_text(encoding="utf-8")))
    assert described == {path.stem for path in FOLDER.glob("*.py")}


def test_a_step_is_compared_in_fp32_and_in_the_chosen_precision(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(limits, "in_chosen_precision", lambda work: replace(work, bf16=True))

    def record_step(model, optimizer, inputs, labels, *, bf16) -> None:
        weights = next(p for p in model.parameters() if p.ndim == 4)
        seen.append((bf16, weights.is_contiguous(memory_format=torch.channels_last)))

    monkeypatch.setattr(limits, "step", record_step)
    steps = [row for row in limits.augmented() if "step" in row[1]]
    for case, _, reference, ours in steps:
        assert case == "augmented"
        reference()
        ours()
    assert seen == [(False, False), (False, True), (False, False), (True, True)]
    assert len({part for _, part, _, _ in steps}) == 2


def test_preparing_a_mega_batch_counts_and_saving_does_not(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(avalanche_naive, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    watch = avalanche_naive.Watch()
    started = RunStarted("", "", "", {}, 1, 2, 1, (10, 10))
    revealed, saved = MegaBatchRevealed(1, 10, 10, 0), Checkpointed(1, 1, "")
    ended = EpochEnded(1, 1, 1, 0.0, 0.0, 0.0, 10, 0.0)
    took = [(started, 1000), (revealed, 1), (ended, 10), (saved, 500), (revealed, 2), (ended, 20)]
    for event, seconds in took:
        now[0] += seconds
        watch.notify(event)
    assert (watch.seconds, watch.samples) == (1 + 10 + 2 + 20, 20)


@pytest.mark.parametrize(("theirs", "met"), [(2.8, True), (2.7, False)])
def test_the_record_says_whether_the_target_is_met(monkeypatch, capsys, theirs, met) -> None:
    seen = []

    def ours(epochs, options):
        seen.append(options)
        return (2.5 if options else 2.0), epochs * 1437, 5.0

    monkeypatch.setattr(avalanche_naive, "ours", ours)
    monkeypatch.setattr(avalanche_naive, "theirs", lambda train, epochs: (theirs, epochs * len(train)))
    monkeypatch.setattr(avalanche_naive, "version", lambda name: "1")
    monkeypatch.setattr(avalanche_naive, "logging", SimpleNamespace(disable=lambda: None))
    monkeypatch.setattr(sys, "argv", ["avalanche_naive.py", "--json", "--repetitions", "2", "--epochs", "3"])
    avalanche_naive.main()
    record = json.loads(capsys.readouterr().out)
    assert (record["target"], record["ratio"], record["met"]) == (1.4, pytest.approx(theirs / 2), met)
    assert record["ratios"] == pytest.approx({"forgetkit": theirs / 2, "forgetkit, contiguous fp32": theirs / 2.5})
    rows = {row["side"]: (row["seconds"], row["times as fast"]) for row in record["cases"]}
    assert rows["forgetkit, the whole run"] == pytest.approx((5, theirs / 5))
    assert rows["avalanche"] == pytest.approx((theirs, 1))
    assert {len(times) for times in record["seconds"].values()} == {2}
    assert {} in seen
    assert {"memory_format": "contiguous", "precision": "fp32"} in seen
