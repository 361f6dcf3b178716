"""Each option changes what it says and nothing else: two runs that differ in it agree up to where it acts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import forgetkit
from forgetkit.config import NOT_PROTOCOL, RunConfig
from forgetkit.registry.registry import load
from forgetkit.registry.spec import options_of

pytestmark = pytest.mark.slow

BASE = {
    "dataset": "synthetic:samples=150,test=40,classes=3,size=8,channels=1,noise=3.0",
    "model": "convnet:width=4",
    "augment": "crop-flip",
    "mega_batches": 3,
    "val_fraction": 0.2,
    "epochs": 4,
    "batch_size": 16,
    "threads": 1,
}
NOISY = {"label_noise": 0.4}
MOST = {"reinit": "masked:fraction=0.9"}
STARTED = ("stream",)
FIRST_EPOCH = ("epoch", 1, 1)
FIRST_FORGETTING = ("forgotten", 1)
AFTER_FORGETTING = ("epoch", 2, 1)


@dataclass(frozen=True)
class Case:
    """An option, its other value, what both runs have beside it, and where the two first differ."""

    option: str
    value: Any
    differs: tuple[Any, ...]
    beside: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.option}={self.value}"


CASES = [
    # What is scored, and how.
    Case("score_on", "first", ("forgotten", 2)),
    Case("score_on", "incoming", FIRST_FORGETTING),
    Case("score_on", "union", FIRST_FORGETTING),
    Case("score_sampling", "head", FIRST_FORGETTING, {"importance": "snip:samples=10"}),
    Case("score_transform", "train", FIRST_FORGETTING),
    Case("score_mode", "train", FIRST_FORGETTING),
    Case("score_params", "weights", FIRST_FORGETTING),
    Case("score_params", "conv-linear", FIRST_FORGETTING),
    Case("score_batch", 8, FIRST_FORGETTING, {"importance": "snip:reduce=mean-abs"}),
    Case("importance", "snip:samples=0.5", FIRST_FORGETTING),
    Case("importance", "snip:samples=7", FIRST_FORGETTING),
    Case("importance", "snip:reduce=per-sample", FIRST_FORGETTING),
    Case("importance", "snip:reduce=mean-abs", FIRST_FORGETTING, {"score_batch": 8}),
    Case("importance", "fisher:variant=sampled", FIRST_FORGETTING, {"importance": "fisher"}),
    Case("importance", "fisher:samples=0.5", FIRST_FORGETTING, {"importance": "fisher"}),
    # What is reset, and to which value.
    Case("reinit", "masked:fraction=0.3", FIRST_FORGETTING),
    Case("reinit", "masked:which=highest", FIRST_FORGETTING),
    Case("reinit", "masked:round=up", FIRST_FORGETTING),
    Case("reinit", "masked:fraction=0.9,params=weights", FIRST_FORGETTING, MOST),
    Case("reinit", "masked:fraction=0.9,norm=skip", FIRST_FORGETTING, MOST),
    Case("reinit", "masked:fraction=0.9,norm=uniform", AFTER_FORGETTING, MOST),
    Case("reinit", "masked:fresh=layer-default", AFTER_FORGETTING),
    Case("reinit", "masked:fresh=uniform", AFTER_FORGETTING),
    Case("reinit", "masked:fresh=rewind", AFTER_FORGETTING),
    Case("reinit", "masked:fresh=zero", AFTER_FORGETTING),
    Case("reinit", "llf:start=1", FIRST_FORGETTING, {"reinit": "llf"}),
    Case("reinit", "llf:start=0.7", FIRST_FORGETTING, {"reinit": "llf"}),
    Case("reinit", "llf:norm=reset", FIRST_FORGETTING, {"reinit": "llf"}),
    Case("reinit", "llf:params=weights", FIRST_FORGETTING, {"reinit": "llf"}),
    Case("reinit", "llf:fresh=uniform", AFTER_FORGETTING, {"reinit": "llf"}),
    Case("reinit", "rifle:fresh=zero", AFTER_FORGETTING, {"reinit": "rifle"}),
    Case("reinit", "rifle:head=features.0", FIRST_FORGETTING, {"reinit": "rifle"}),
    Case("reinit", "shrink-perturb:shrink=0.9", AFTER_FORGETTING, {"reinit": "shrink-perturb"}),
    Case("reinit", "shrink-perturb:noise=0.5", AFTER_FORGETTING, {"reinit": "shrink-perturb"}),
    Case("reinit", "shrink-perturb:draw=gaussian", AFTER_FORGETTING, {"reinit": "shrink-perturb"}),
    Case("reinit", "shrink-perturb:params=weights", FIRST_FORGETTING, {"reinit": "shrink-perturb"}),
    Case("reinit", "shrink-perturb:stats=reset", FIRST_FORGETTING, {"reinit": "shrink-perturb"}),
    Case("reinit", "cold:draw=same", AFTER_FORGETTING, {"reinit": "cold"}),
    # What a forgetting leaves behind.
    Case("optimizer_state", "keep", FIRST_FORGETTING),
    Case("optimizer_state", "fresh", FIRST_FORGETTING),
    Case("optimizer_state", "fresh", FIRST_FORGETTING, {"method": "warm"}),
    Case("bn_stats", "reset", FIRST_FORGETTING),
    Case("bn_stats", "recalibrate", FIRST_FORGETTING),
    # The stream.
    Case("split", "contiguous", STARTED),
    Case("shots", 30, STARTED),
    Case("mega_batches", 4, STARTED),
    Case("val_fraction", 0.3, STARTED),
    Case("augment", "flip", FIRST_EPOCH),
    Case("label_noise", 0.4, FIRST_EPOCH),
    Case("label_noise_draw", "other", FIRST_EPOCH, NOISY),
    Case("label_noise_val", "clean", ("judged", 1), {**NOISY, "val_fraction": 0.5}),
    Case("val_transform", "train", ("judged", 1)),
    Case("replay", "last", ("epoch", 3, 1)),
    Case("replay", "buffer:size=20,rule=lure", ("epoch", 3, 1), {"replay": "buffer:size=20,rule=per-mega-batch"}),
    Case("replay", "buffer:size=20,val_size=3", ("judged", 2), {"replay": "buffer:size=20"}),
    # Learning.
    Case("epochs", 5, ("epoch", 1, 2)),  # the second milestone moves, and with it the rate
    Case("samples", 60, ("epoch", 1, 2), {"epochs": 50, "mega_batches": 1, "shots": 10}),  # of 24, two and a half times
    Case("batch_size", 32, FIRST_EPOCH),
    Case("optimizer", "adamw", FIRST_EPOCH, {"lr": 0.01}),
    Case("lr", 0.05, FIRST_EPOCH),
    Case("schedule", "cosine", ("epoch", 1, 2)),
    Case("schedule", "constant", ("epoch", 1, 2)),
    Case("milestones", (2,), ("epoch", 1, 2)),
    Case("gamma", 0.5, ("epoch", 1, 2)),
    Case("momentum", 0.5, FIRST_EPOCH),
    Case("weight_decay", 0.01, FIRST_EPOCH),
    Case("carry", "best-val", ("judged", 1), {"lr": 1.0, "seed": 3}),
    Case("patience", 1, ("epoch", 1, 3), {"lr": 1.0, "carry": "best-val", "seed": 3}),
    Case("min_delta", 0.5, ("epoch", 1, 3), {"patience": 1}),
]
NO_TRAINING_EFFECT = [Case("val_transform", "train", ()), Case("label_noise_val", "clean", (), NOISY)]


@dataclass(frozen=True)
class Flat:
    """All alike."""

    allows_ties = True

    def score(self, probe: Any) -> Any:
        return probe.zeros()


class Runs:
    """Runs, each made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._traces: dict[str, dict[tuple[Any, ...], Any]] = {}

    def trace(self, **options: Any) -> dict[tuple[Any, ...], Any]:
        """What a run did, event by event, in order; times and names left out."""
        key = json.dumps(options, sort_keys=True)
        if key not in self._traces:
            result = forgetkit.run({**BASE, **options, "out": self._folder})
            self._traces[key] = _trace(Path(result["directory"]), result)
        return self._traces[key]


def _trace(directory: Path, result: Mapping[str, Any]) -> dict[tuple[Any, ...], Any]:
    manifest = json.loads((directory / "manifest.json").read_text())
    found: dict[tuple[Any, ...], Any] = {("stream",): (manifest["partition"], manifest["data"]["train"])}
    rows = iter(result["mega_batches"])
    for line in (directory / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "epoch_ended":
            numbers = [event[key] for key in ("loss", "accuracy", "lr", "samples")]
            found["epoch", event["mega_batch"], event["epoch"]] = numbers
        elif event["event"] == "mega_batch_ended":
            row = next(rows)
            index = row["index"]
            report = row["unlearn"] and {k: v for k, v in row["unlearn"].items() if k not in ("seconds", "sources")}
            file = directory / "checkpoints" / f"mega-batch-{index:03}.pt"
            apart = ("seconds", "unlearn", "epochs", "forward_passes", "backward_passes")  # of the forgetting, too
            judged = {key: row[key] for key in row if key not in apart}
            found["judged", index] = (judged, hashlib.sha256(file.read_bytes()).hexdigest())
            found["forgotten", index] = report
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_runs_agree_up_to_where_the_option_acts(runs: Runs, case: Case) -> None:
    ours, theirs = runs.trace(**case.beside), runs.trace(**{**case.beside, case.option: case.value})
    assert case.differs in ours
    for event in ours:
        if event == case.differs:
            assert ours[event] != theirs.get(event), f"{case} does nothing at {event}"
            return
        assert ours[event] == theirs[event], f"{case} acts at {event} already"


@pytest.mark.parametrize("case", NO_TRAINING_EFFECT, ids=str)
def test_what_is_only_looked_at_changes_no_weight(runs: Runs, case: Case) -> None:
    ours, theirs = runs.trace(**case.beside), runs.trace(**{**case.beside, case.option: case.value})
    assert ours != theirs
    for event, content in ours.items():
        if event[0] == "judged":
            assert content[1] == theirs[event][1]
            assert {k for k in content[0] if content[0][k] != theirs[event][0][k]} <= {
                "val_accuracy",
                "generalization_gap",
            }
        else:
            assert content == theirs[event]


def test_every_option_of_the_protocol_has_a_case() -> None:
    own = {case.option for case in CASES}
    elsewhere = {
        "interventions",
        "on_nan",
        "precision",
    }  # tests/faults/test_numbers.py, tests/training/test_precision.py
    assert {key for key in RunConfig.model_fields if key not in NOT_PROTOCOL} - own <= elsewhere
    offers = load(entry_points=False)
    specs = [str(case.value) for case in CASES if case.option in ("importance", "reinit", "replay")]
    for kind, names in {
        "importance": ("snip", "fisher"),
        "reinit": ("masked", "llf", "rifle", "shrink-perturb", "cold"),
        "replay": ("buffer",),
    }.items():
        for name in names:
            said = " ".join(spec for spec in specs if spec.startswith(name))
            for option in options_of(offers.find(kind, name).component):
                if (name, option.name) not in {("masked", "ties"), ("buffer", "size")}:  # below; with the data sizes
                    assert f"{option.name}=" in said, f"{name}:{option.name} has no case"


@pytest.mark.parametrize(("ties", "reset"), [("random", 0.4), ("stable", 0.4), ("drop", 1.0)])
def test_ties_act_where_scores_tie(ties: str, reset: float) -> None:
    """All scores equal: any set of the right size, the first ones, or everything."""
    model = torch.nn.Linear(10, 10, bias=False)
    before = model.weight.detach().clone()
    report = forgetkit.unlearn(model, importance=Flat(), reinit=f"masked:fraction=0.4,ties={ties},fresh=zero")
    assert report.reset == round(100 * reset)
    changed = (model.weight != before).flatten().nonzero().flatten().tolist()
    assert (changed == list(range(40))) == (ties == "stable")
