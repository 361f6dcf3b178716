"""One plugin that answers every hook, and a run in which each of its components takes part."""

from __future__ import annotations

import json

SOURCE = '''
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import typer

import forgetkit
from forgetkit.contracts import Answer, Change, Data, Intervention, DataSplit


@dataclass(frozen=True)
class Biggest:
    """Size."""

    def score(self, probe):
        return {name: target.abs() for name, target in probe.targets.items()}


@dataclass(frozen=True)
class Halve:
    """Halve what was chosen."""

    needs_scores = True

    def propose(self, context):
        for name, mask in context.select(0.5).items():
            yield Change(name, mask, context.targets[name] / 2)


@dataclass(frozen=True)
class Newest:
    """Keep the newest sample."""

    def retain(self, buffer, arrivals, rng):
        return np.concatenate([buffer.ids, arrivals.ids])[-1:]


@dataclass(frozen=True)
class Count(Intervention):
    """Count the steps."""

    def after_step(self, moment):
        moment.state["steps"] = moment.state.get("steps", torch.zeros(())) + 1
        Path("steps").write_text(str(int(moment.state["steps"])))


@dataclass(frozen=True)
class Corners:
    """Points in the corners of a square."""

    def load(self, context):
        inputs = np.random.default_rng(0).random((80, 2), np.float32)
        labels = (inputs > 0.5).astype(np.int64) @ np.array([1, 2])
        return Data(DataSplit(inputs[:60], labels[:60]), DataSplit(inputs[60:], labels[60:]), ("a", "b", "c", "d"))


@dataclass(frozen=True)
class Straight:
    """One linear layer."""

    def build(self, inputs, normalize):
        return torch.nn.Sequential(normalize, torch.nn.Linear(2, inputs.classes))


@dataclass(frozen=True)
class Rows:
    """How many mega-batches there were."""

    def compute(self, rows):
        return len(rows)


@dataclass(frozen=True)
class Last:
    """Note the last event."""

    def notify(self, event):
        Path("last").write_text(type(event).__name__)


@dataclass(frozen=True)
class Norm:
    """The size of the weights."""

    def analyze(self, evidence):
        return Answer({"squares": sum(p.detach().square().sum().item() for p in evidence.model.parameters())})


@dataclass(frozen=True)
class OneByOne:
    """One task after the other."""

    def execute(self, work, tasks):
        for position, task in enumerate(tasks):
            yield position, work(task)


app = typer.Typer()


@app.command()
def hello():
    """Greet."""
    print("hello")


@forgetkit.hookimpl
def forgetkit_importance():
    return {"biggest": Biggest}


@forgetkit.hookimpl
def forgetkit_reinit():
    return {"halve": Halve}


@forgetkit.hookimpl
def forgetkit_replay():
    return {"newest": Newest}


@forgetkit.hookimpl
def forgetkit_interventions():
    return {"count": Count}


@forgetkit.hookimpl
def forgetkit_datasets():
    return {"corners": Corners}


@forgetkit.hookimpl
def forgetkit_models():
    return {"straight": Straight}


@forgetkit.hookimpl
def forgetkit_metrics():
    return {"rows": Rows}


@forgetkit.hookimpl
def forgetkit_observers():
    return {"last": Last}


@forgetkit.hookimpl
def forgetkit_analyses():
    return {"norm": Norm}


@forgetkit.hookimpl
def forgetkit_executors():
    return {"one-by-one": OneByOne}


@dataclass(frozen=True)
class Unity:
    def handles(self, optimizer):
        return False

    def fresh(self, optimizer, parameter):
        return {}


@forgetkit.hookimpl
def forgetkit_optimizer_state():
    return {"unity": Unity}


@forgetkit.hookimpl
def forgetkit_commands():
    return {"greet": app}
'''

NAMES = {
    "importance": "biggest",
    "reinit": "halve",
    "replay": "newest",
    "interventions": "count",
    "datasets": "corners",
    "models": "straight",
    "metrics": "rows",
    "observers": "last",
    "analyses": "norm",
    "executors": "one-by-one",
    "optimizer_state": "unity",
    "commands": "greet",
}


def test_each_kind_is_found_and_takes_part(install, cli, workdir):
    install("everything", "everything", SOURCE)
    listing = cli("show", "--json").json
    for kind, name in NAMES.items():
        assert name in listing[kind], kind
    method = ["--importance", "biggest", "--reinit", "halve", "--replay", "newest", "--intervention", "count"]
    rest = ["--dataset", "corners", "--model", "straight", "--metric", "rows", "--observer", "last"]
    said = cli("run", *method, *rest, "--epochs", 2, "--mega-batches", 3, "--json")
    assert said.status == 0, said.err
    assert said.json["rows"] == 3
    assert said.json["versions"]["plugins"] == {"everything": "1.2"}
    # 18 of 20 are trained on, then one more that was kept: one step an epoch of 64, six in all.
    assert [row["train_samples"] for row in said.json["mega_batches"]] == [18, 19, 19]
    assert (workdir / "steps").read_text() == "6"
    assert (workdir / "last").read_text() == "RunEnded"
    layers = said.json["mega_batches"][0]["unlearn"]["layers"]
    assert sum(layer["reset"] for layer in layers.values()) == 6  # half of two times four weights and four biases
    asked = cli("analyze", said.json["directory"], "norm", "--no-report", "--json")
    assert (asked.status, asked.json["answers"][0]["status"]) == (0, "answered"), asked.err
    assert asked.json["answers"][0]["numbers"]["squares"] > 0
    assert cli("greet", "hello").out == "hello\n"
    json.dumps(said.json)
