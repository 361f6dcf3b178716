"""The experiments' set-ups: label noise, few shots, grids, long streams, optimizers and schedules."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import forgetkit
from forgetkit.contracts import Intervention

EASY = "synthetic:samples=120,test=60,classes=2,size=4,channels=1,noise=0.1"
FEW = {"dataset": EASY, "model": "mlp:width=8", "epochs": 8, "mega_batches": 2, "threads": 1, "method": "warm"}


def run(folder: Path, **options: Any) -> dict[str, Any]:
    return forgetkit.run({**FEW, "out": folder, **options})


def events(result: dict[str, Any], name: str) -> list[dict[str, Any]]:
    lines = (Path(result["directory"]) / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_with_all_labels_flipped_it_learns_the_opposite(workdir: Path) -> None:
    """Of two classes each becomes the other: training labels are noisy, test labels true, validation as asked."""
    noisy = run(workdir, label_noise=1.0, label_noise_draw="other")
    assert noisy["noisy_labels"] == 120
    assert noisy["test_accuracy"] < 0.1
    assert noisy["mega_batches"][-1]["train_accuracy"] > 0.9
    assert noisy["mega_batches"][-1]["val_accuracy"] > 0.9
    clean = run(workdir, label_noise=1.0, label_noise_draw="other", label_noise_val="clean")
    assert clean["noisy_labels"] == 120 - 2 * 6
    assert clean["mega_batches"][-1]["val_accuracy"] < 0.1
    assert clean["test_accuracy"] == noisy["test_accuracy"]


@pytest.mark.slow
def test_label_noise_depends_on_the_seed_alone(workdir: Path) -> None:
    def changed(**options: Any) -> int:
        return int(run(workdir, **{"label_noise": 0.5, "epochs": 1, **options})["noisy_labels"])

    assert changed() == changed(method="cold") == changed(preset="lure-code") == changed(epochs=2)
    assert len({changed(seed=seed) for seed in range(5)}) > 1


@dataclass(frozen=True)
class Watch(Intervention):
    """Takes down what each step is made with."""

    rates: list[tuple[int, int, float, float]]

    def after_step(self, moment: Any) -> None:
        """Mega-batch, epoch, rate and decay."""
        (group,) = moment.optimizer.param_groups
        self.rates.append((moment.mega_batch, moment.epoch, group["lr"], group["weight_decay"]))


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "decay"), [(0.005, 0.0), (0.01, 1e-4), (0.05, 5e-4), (0.1, 1e-3)])
@pytest.mark.parametrize("preset", ["paper", "lure-code"])
def test_a_grid_of_rates_and_decays_acts_in_every_mega_batch(
    workdir: Path, lr: float, decay: float, preset: str
) -> None:
    """The optimizer that steps has the rate of the schedule, from the base that was given, and the decay."""
    watch = Watch([])
    options = {"preset": preset, "epochs": 5, "mega_batches": 4, "lr": lr, "weight_decay": decay}
    run(workdir, interventions=[watch], **options)
    _tried_out, *steps = watch.rates
    assert {t for t, *_ in steps} == {1, 2, 3, 4}
    for _, epoch, rate, given in steps:
        assert rate == pytest.approx(lr * 0.1 ** ((epoch > 2) + (epoch > 4)), rel=1e-12)
        assert given == decay


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [
        ("constant", lambda e: 0.1),
        ("cosine", lambda e: 0.05 * (1 + math.cos(math.pi * (e - 1) / 6))),
        ("step", lambda e: 0.1 * 0.1 ** ((e > 2) + (e > 4))),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_schedule_starts_anew_in_each_mega_batch(workdir: Path, schedule: str, rate: Any, optimizer: str) -> None:
    result = run(workdir, epochs=6, schedule=schedule, optimizer=optimizer, lr=0.1)
    ended = events(result, "epoch_ended")
    assert [(e["mega_batch"], e["epoch"]) for e in ended] == [(t, e) for t in (1, 2) for e in range(1, 7)]
    assert [e["lr"] for e in ended] == pytest.approx([rate(e) for _ in (1, 2) for e in range(1, 7)], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("state", ["zero", "keep", "fresh"])
def test_both_optimizers_learn_and_forget(workdir: Path, optimizer: str, state: str) -> None:
    result = run(workdir, method="lure", optimizer=optimizer, optimizer_state=state, epochs=20)
    assert result["test_accuracy"] > 0.9
    report = result["mega_batches"][0]["unlearn"]
    entries = {"sgd": 1, "adamw": 2}[optimizer]
    cleared = {"zero": report["reset"] * entries, "keep": 0, "fresh": result["parameters"] * entries}
    assert report["optimizer_cleared"] == cleared[state]


@pytest.mark.slow
@pytest.mark.parametrize(("mega_batches", "replay"), [(25, "full"), (50, "none"), (100, "buffer:size=30")])
@pytest.mark.parametrize("preset", ["clean", "lure-code"])
def test_long_streams(workdir: Path, mega_batches: int, replay: str, preset: str) -> None:
    dataset = "synthetic:samples=1000,test=40,classes=4,size=4,channels=1"
    options = {"dataset": dataset, "mega_batches": mega_batches, "replay": replay, "epochs": 1, "preset": preset}
    result = run(workdir, method="lure", **options)
    assert len(result["mega_batches"]) == mega_batches
    trained = [row["train_samples"] for row in result["mega_batches"]]
    each = 900 // mega_batches
    rule = {"full": lambda i: each * i, "none": lambda i: each}
    if replay in rule:
        assert trained == [rule[replay](i) for i in range(1, mega_batches + 1)]
    elif preset == "clean":
        assert trained == [each + min(30, each * i) for i in range(mega_batches)]
    else:  # thirty more each time out of what is at hand, nine at first; some of them twice
        assert all(b - a <= 30 for a, b in pairwise(trained))
        assert trained[-1] > 1000


@pytest.mark.slow
@pytest.mark.parametrize(("mega_batches", "shots"), [(30, 27), (70, 54)])
def test_few_shots_in_long_streams(workdir: Path, mega_batches: int, shots: int) -> None:
    """Restricted ImageNet's set-up in small: fourteen classes, a balanced draw, cut into 30 or 70."""
    dataset = "synthetic:samples=1400,test=28,classes=14,size=2,channels=1"
    options = {"dataset": dataset, "mega_batches": mega_batches, "shots": shots, "epochs": 1}
    result = run(workdir, method="lure", val_fraction=0.0, **options)
    sizes = [row["train_samples"] for row in result["mega_batches"]]
    steps = Counter(b - a for a, b in zip([0, *sizes], sizes, strict=False))
    assert sum(size * count for size, count in steps.items()) == sizes[-1] == 14 * shots
    assert max(steps) - min(steps) <= 1
