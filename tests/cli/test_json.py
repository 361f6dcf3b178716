"""``forgetkit run --json``: the contract with scripts, key by key and sum by sum."""

from __future__ import annotations

import json
import math
from statistics import fmean

import pytest
import torch

NUMBER = (int, float)
MAYBE = (int, float, type(None))
RESULT = {
    "schema": int,
    "run": str,
    "directory": str,
    "method": str,
    "preset": str,
    "overrides": dict,
    "config": dict,
    "augment": str,
    "versions": dict,
    "parameters": int,
    "noisy_labels": int,
    "mega_batches": list,
    "test_accuracy": NUMBER,
    "cer": int,
    "mean_anytime_error": NUMBER,
    "generalization_gap": MAYBE,
    "samples_seen": int,
    "forward_passes": int,
    "backward_passes": int,
    "seconds": NUMBER,
    "peak_memory_bytes": (int, type(None)),
    "status": str,
}
ROW = {
    "index": int,
    "train_samples": int,
    "val_samples": int,
    "epochs": int,
    "carried_epoch": int,
    "samples_seen": int,
    "forward_passes": int,
    "backward_passes": int,
    "train_accuracy": NUMBER,
    "val_accuracy": MAYBE,
    "generalization_gap": MAYBE,
    "test_accuracy": NUMBER,
    "test_errors": int,
    "seconds": NUMBER,
    "unlearn": (dict, type(None)),
    "interventions": dict,
}
UNLEARN = {
    "scored": int,
    "reset": int,
    "changed": int,
    "tied": int,
    "remarks": list,
    "repeated": (str, type(None)),
    "seconds": NUMBER,
    "forward_passes": int,
    "backward_passes": int,
    "layers": dict,
}


def require(content, schema):
    assert schema.keys() <= content.keys()
    for key, kind in schema.items():
        assert isinstance(content[key], kind), key
        assert not isinstance(content[key], bool), key


@pytest.fixture
def result(tiny):
    said = tiny("--mega-batches", 3, "--epochs", 2, "--json", "--name", "r")
    assert said.status == 0
    return said


def test_standard_output_is_the_content_of_result_json(result, workdir):
    assert result.out.count("\n") == 1
    assert result.json == json.loads((workdir / "runs" / "r" / "result.json").read_text())


def test_everything_else_goes_to_standard_error(result):
    assert "mega-batch 1: test accuracy" in result.err
    assert "record: runs/r" in result.err


def test_even_what_a_component_prints(tiny, plugin):
    source = """
import dataclasses, forgetkit
print("on import")
@dataclasses.dataclass(frozen=True)
class Loud:
    def score(self, probe):
        print("on scoring")
        return {name: value.abs() for name, value in probe.targets.items()}
@forgetkit.hookimpl
def forgetkit_importance():
    return {"loud": Loud}
"""
    said = tiny("--json", "--plugin", plugin("loud", source), "--importance", "loud")
    assert said.json["status"] == "completed"
    assert "on import" in said.err
    assert "on scoring" in said.err


def test_every_key_has_its_type(result):
    content = result.json
    require(content, RESULT)
    assert content["schema"] == 2
    assert content["status"] == "completed"
    assert content["directory"] == "runs/r"
    assert content["run"] == "r"
    assert content["versions"].keys() >= {"forgetkit", "torch", "plugins"}
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["plugins"] == {}
    for row in content["mega_batches"]:
        require(row, ROW)
        if row["unlearn"] is not None:
            require(row["unlearn"], UNLEARN)
            for layer in row["unlearn"]["layers"].values():
                require(layer, {"size": int, "reset": int})


def test_the_configuration_is_resolved(result):
    config = result.json["config"]
    assert config["method"] == result.json["method"] == "lure"
    assert config["preset"] == result.json["preset"] == "clean"
    assert config["importance"] == "snip:samples=1024,reduce=abs-mean"
    assert config["reinit"] == (
        "masked:fraction=0.2,which=lowest,ties=random,round=down,params=all,fresh=original,norm=ones"
    )
    assert config["replay"] == "full"
    assert config["model"] == "mlp:width=8,depth=2"
    assert config["device"] == "cpu"
    assert config["epochs"] == 2
    assert (config["lr"], config["milestones"], config["schedule"]) == (0.1, [1], "step")


def test_the_numbers_hang_together(result):
    content = result.json
    rows = content["mega_batches"]
    test = 20
    assert [row["index"] for row in rows] == [1, 2, 3]
    assert content["cer"] == sum(row["test_errors"] for row in rows)
    assert content["test_accuracy"] == rows[-1]["test_accuracy"]
    assert content["mean_anytime_error"] == content["cer"] / (len(rows) * test)
    assert content["generalization_gap"] == fmean(row["generalization_gap"] for row in rows)
    assert content["samples_seen"] == sum(row["samples_seen"] for row in rows)
    for way in ("forward_passes", "backward_passes"):
        assert content[way] == sum(row[way] for row in rows)
        assert all(row[way] == row["samples_seen"] + (row["unlearn"] or {way: 0})[way] for row in rows)
    assert content["seconds"] >= sum(row["seconds"] for row in rows)
    assert content["noisy_labels"] == 0
    for row in rows:
        assert row["carried_epoch"] == row["epochs"] == 2
        assert row["test_accuracy"] == (test - row["test_errors"]) / test
        assert row["generalization_gap"] == row["train_accuracy"] - row["val_accuracy"]
        assert row["samples_seen"] == row["epochs"] * row["train_samples"]
        assert row["train_samples"] + row["val_samples"] == 20 * row["index"]  # full replay of 60 in 3
        assert row["val_samples"] == 2 * row["index"]


def test_the_audit_hangs_together(result):
    content = result.json
    assert content["mega_batches"][-1]["unlearn"] is None
    for row in content["mega_batches"][:-1]:
        audit = row["unlearn"]
        assert audit["scored"] == content["parameters"]
        assert audit["reset"] == math.floor(0.2 * audit["scored"])
        assert sum(layer["reset"] for layer in audit["layers"].values()) == audit["reset"]
        assert sum(layer["size"] for layer in audit["layers"].values()) == audit["scored"]


@pytest.mark.parametrize(("fraction", "share"), [(0, 0.0), (1, 1.0), (0.5, 0.5)])
def test_a_fraction_of_nothing_and_of_everything(tiny, fraction, share):
    said = tiny("--reinit", f"masked:fraction={fraction}", "--json")
    audit = said.json["mega_batches"][0]["unlearn"]
    assert audit["reset"] == math.floor(share * audit["scored"])
    if fraction == 1:
        assert all(layer["reset"] == layer["size"] for layer in audit["layers"].values())


def test_without_validation_samples_there_is_no_gap(tiny):
    content = tiny("--val-fraction", 0, "--json").json
    assert content["generalization_gap"] is None
    assert all(row["val_accuracy"] is row["generalization_gap"] is None for row in content["mega_batches"])
    assert all(row["val_samples"] == 0 for row in content["mega_batches"])


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (["--method", "warm"], "warm"),
        (["--method", "cold"], "cold"),
        (["--reinit", "rifle"], "rifle"),
        (["--importance", "snip", "--reinit", "masked"], "lure"),
        (["--importance", "fisher"], "fisher+masked"),
        (["--reinit", "masked:fraction=0.3"], "snip+masked"),
    ],
)
def test_the_method_is_named_after_what_ran(tiny, words, label):
    assert tiny(*words, "--json").json["method"] == label


def test_overrides_are_what_differs_from_the_preset(result, tiny, workdir):
    """The result, the manifest and a rehearsal agree; what is compared, with what and where, is no override."""
    words = ["--preset", "paper", "--reinit", "masked:fresh=zero", "--mega-batches", 3, "--lr", 0.1, "--name", "p"]
    content = tiny(*words, "--replay", "buffer:size=9", "--json").json
    expected = {
        "mega-batches": {"value": 3, "preset": 8},
        "epochs": {"value": 1, "preset": 50},
        "replay": {"value": "buffer", "preset": "full"},
        "reinit.masked.fresh": {"value": "zero", "preset": "uniform"},
        "replay.buffer.size": {"value": 9, "preset": 186},
    }
    assert (content["preset"], content["overrides"]) == ("paper", expected)
    manifest = json.loads((workdir / "runs" / "p" / "manifest.json").read_text())
    assert (manifest["preset"], manifest["overrides"], manifest["noisy_labels"]) == ("paper", expected, 0)
    assert result.json["overrides"].keys() == {"mega-batches", "epochs"}


def test_noise_is_counted_in_the_result(tiny):
    content = tiny("--label-noise", 1, "--label-noise-draw", "other", "--label-noise-val", "clean", "--json").json
    assert content["noisy_labels"] == 54  # every training label of the stream, and none of its six for validation


def test_warm_start_resets_nothing(tiny):
    audit = tiny("--method", "warm", "--json").json["mega_batches"][0]["unlearn"]
    assert (audit["scored"], audit["reset"], audit["layers"]) == (0, 0, {})


def models(run):
    return [torch.load(file, weights_only=True)["model"] for file in sorted(run.glob("checkpoints/mega-batch-*.pt"))]


def equal(one, other):
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
def test_one_seed_gives_the_same_bits_and_another_does_not(tiny, workdir, substance, digests):
    words = ["--replay", "buffer:size=9", "--epochs", 2, "--json"]
    first = tiny(*words, "--name", "a").json
    again = tiny(*words, "--name", "b", "--out", "elsewhere").json
    other = tiny(*words, "--name", "c", "--seed", 1).json
    assert substance(first) == substance(again)
    assert digests(workdir / "runs" / "a") == digests(workdir / "elsewhere" / "b")
    assert substance(first)["mega_batches"] != substance(other)["mega_batches"]
    assert not equal(models(workdir / "runs" / "a"), models(workdir / "runs" / "c"))


def test_another_process_gives_the_same_bits(tiny, tiny_words, spawn, workdir, substance, digests):
    here = tiny("--json", "--name", "here").json
    there = spawn(*tiny_words, "--json", "--name", "there")
    assert there.status == 0
    assert substance(here) == substance(there.json)
    assert digests(workdir / "runs" / "here") == digests(workdir / "runs" / "there")
