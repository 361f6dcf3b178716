"""Every analysis, built in and of plugins, leaves what it looks at as it was, to the bit."""

from __future__ import annotations

import copy
import hashlib
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import forgetkit
from forgetkit.errors import ComponentError, InapplicableError
from forgetkit.registry import registry
from forgetkit.testing import comparing

FEW = {
    "attack": "attack:samples=8,steps=2",
    "corruption": 'corruption:samples=4,severities=[2],corruptions=["gaussian_noise","contrast"]',
    "flatness": "flatness:samples=8,repeats=1",
    "plasticity": "plasticity:samples=8",
    "redundancy": "redundancy:samples=8",
}

PLUGIN = '''
from dataclasses import dataclass

import forgetkit
from forgetkit.contracts import Answer, Chart, Measure


@dataclass(frozen=True)
class {name}:
    """A question."""

    def analyze(self, evidence):
        {body}
        return Answer({{"one": 1}})


@forgetkit.hookimpl
def forgetkit_analyses():
    return {{"{word}": {name}}}
'''


def every() -> list[str]:
    return [FEW.get(offer.name, offer.name) for offer in registry.load(entry_points=False).named("analyses")]


class Moody(nn.Module):
    """Batch normalisation, dropout, a frozen layer, a hook, a buffer that counts, gradients, and mixed modes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(6 * 49, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.body[0].weight.requires_grad_(requires_grad=False)
        self.body[1].register_forward_hook(lambda module, args, output: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(self.body(x).flatten(1))


@pytest.fixture
def moody():
    torch.manual_seed(0)
    model = Moody()
    images, labels = torch.rand(12, 3, 32, 32), torch.arange(12) % 4
    nn.functional.cross_entropy(model(images), labels).backward()
    model.body[1].eval()
    return model, (images, labels)


@pytest.mark.slow
@pytest.mark.parametrize("spec", every())
def test_a_model_is_left_to_the_bit(moody, spec):
    model, (images, labels) = moody
    handed = images.clone(), labels.clone()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    before, state, attributes = comparing.Snapshot.of(model), comparing.random_state(), sorted(vars(model))
    parts = dict.fromkeys(("test", "train", "val"), (images, labels))
    try:
        forgetkit.analyze(model, spec, **parts, initial=copy.deepcopy(model))
    except InapplicableError as error:
        assert spec in ("churn", "overlap", "sensitivity"), error  # noqa: PT017 - these are about runs
    after = comparing.Snapshot.of(model)
    for what in ("parameters", "buffers", "gradients", "modes", "hooks"):
        assert not comparing.differing(getattr(before, what), getattr(after, what)), what
    assert comparing.random_state() == state
    assert sorted(vars(model)) == attributes
    assert comparing.same_bits((images, labels), handed)


@pytest.mark.slow
def test_a_run_is_left_to_the_byte(cli, workdir):
    words = ["--dataset", "synthetic:samples=60,test=20,classes=3,size=8,channels=1", "--model", "mlp:width=8"]
    said = cli("run", *words, "--epochs", 1, "--mega-batches", 3, "--threads", 1, "--json")
    directory = Path(said.json["directory"])
    before = digests(directory)
    asked = [spec for spec in every() if spec != "sensitivity"]
    said = cli("analyze", directory, *asked, "--no-report", "--json")
    answered = {one["label"] for one in said.json["answers"] if one["status"] == "answered"}
    assert answered >= {
        "attack",
        "calibration",
        "churn",
        "corruption",
        "flatness",
        "overlap",
        "plasticity",
        "redundancy",
    }
    after = digests(directory)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"analyses"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "next(evidence.model.parameters()).data.add_(1)",
            "the analysis bad (bad.py) changed the parameter 'body.0.weight'",
        ),
        ("raise SystemExit(3)", "the analysis bad (bad.py) raised SystemExit: 3 in "),
        ("return {'one': 1}", "the analysis bad (bad.py) answered dict, not an Answer"),
        ("return Answer({'One': 1})", "the number 'One' of the answer has a name that is no word of small letters"),
        ("return Answer({'one': float('nan')})", "the number 'one' of the answer is nan; None says that there is none"),
        ("return Answer(details={'x': object()})", "the answer cannot be written as JSON"),
        ("return Answer(remarks=None)", "the remarks of the answer are NoneType"),
        ("return Answer(charts=None)", "the charts of the answer are NoneType"),
        ("return Answer(remarks='one')", "the remarks of the answer are str"),
        (
            "d = {}\n        for _ in range(99999): d = {'d': d}\n        return Answer(details=d)",
            "cannot be written as JSON",
        ),
        ("return Answer({'one': Measure(1, 'sideways')})", "the number 'one' of the answer: better: "),
        ("return Answer(charts=[Chart('c', '', '', '', [], 'cake')])", "the chart 'c' of the answer: kind: "),
    ],
)
def test_one_of_a_plugin_that_does_not_keep_to_it_is_named(moody, plugin, body, says):
    model, test = moody
    file = plugin("bad", PLUGIN.format(name="Bad", word="bad", body=body))
    with pytest.raises(ComponentError, match=re.escape(says)):
        forgetkit.analyze(model, "bad", test=test, plugins=[file])


def test_what_one_writes_into_its_samples_no_other_sees(plugin):
    body = "[(x.zero_(), y.zero_()) for x, y in evidence.samples().batches()]; evidence.samples().labels.zero_()"
    file = plugin("bad", PLUGIN.format(name="Bad", word="bad", body=body))
    test = torch.randn(8, 3), torch.arange(8) % 2
    evidence = forgetkit.evidence(nn.Linear(3, 2), test=test)
    registry.load(files=[file]).make("analyses", "bad")[1].analyze(evidence)
    inputs, labels = (torch.cat(sides) for sides in zip(*evidence.samples().batches(), strict=True))
    assert torch.equal(inputs, test[0])
    assert torch.equal(labels, test[1])
    assert torch.equal(evidence.samples().labels, test[1])


def test_what_one_of_a_plugin_disturbs_is_put_back(moody, plugin):
    model, test = moody
    body = "import torch; torch.manual_seed(9); evidence.model.train(); "
    body += "evidence.model(torch.rand(4, 3, 32, 32)).sum().backward()"
    file = plugin("rude", PLUGIN.format(name="Rude", word="rude", body=body))
    before, state = comparing.Snapshot.of(model), comparing.random_state()
    forgetkit.analyze(model, "rude", test=test, plugins=[file])
    after = comparing.Snapshot.of(model)
    for what in ("parameters", "buffers", "gradients", "modes", "hooks"):
        assert not comparing.differing(getattr(before, what), getattr(after, what)), what
    assert comparing.random_state() == state


def digests(directory: Path) -> dict[str, str]:
    files = (file for file in directory.rglob("*") if file.is_file())
    return {str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
