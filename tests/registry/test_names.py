"""Errors name a component by its SPEC, and by its file or distribution."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

import forgetkit
from forgetkit.contracts import component_name
from forgetkit.errors import ComponentError, ForgetkitError
from forgetkit.registry import registry

MINE = """
from dataclasses import dataclass
import torch
import forgetkit
from forgetkit.contracts import Answer, Change, Intervention

@dataclass(frozen=True)
class Scorer:
    "Score."
    how: str = "raise"
    def score(self, probe):
        if self.how == "raise":
            raise KeyError("nothing")
        if self.how == "torch":
            torch.nn.functional.linear(torch.zeros(2, 3), torch.zeros(4, 5))
        return {}

@dataclass(frozen=True)
class Method:
    "Propose."
    how: str = "raise"
    def propose(self, context):
        if self.how == "raise":
            raise KeyError("nothing")
        return [Change("nowhere", None, torch.zeros(1))] if self.how == "nowhere" else []

@dataclass(frozen=True)
class Acts(Intervention):
    "Act."
    how: str = "raise"
    def after_step(self, moment):
        if self.how == "raise":
            raise KeyError("nothing")
        moment.state["a"] = "text"

@dataclass(frozen=True)
class Keeps:
    "Keep."
    how: str = "raise"
    def retain(self, buffer, arrivals, rng):
        return arrivals.ids * 0 - 5

@dataclass(frozen=True)
class Hears:
    "Hear."
    how: str = "raise"
    def notify(self, event):
        raise KeyError("nothing")

@dataclass(frozen=True)
class Asks:
    "Ask."
    how: str = "raise"
    def analyze(self, evidence):
        if self.how == "raise":
            raise KeyError("nothing")
        return 5

@dataclass(frozen=True)
class Builds:
    "Build."
    how: str = "raise"
    def build(self, inputs, normalize):
        if self.how == "raise":
            raise KeyError("nothing")
        return torch.nn.Linear(3, 3) if self.how == "narrow" else 5

HOOKS = {
    "importance": Scorer, "reinit": Method, "interventions": Acts, "replay": Keeps, "observers": Hears,
    "analyses": Asks, "models": Builds,
}
for kind, component in HOOKS.items():
    exec(f"@forgetkit.hookimpl\\ndef forgetkit_{kind}():\\n    return {{'mine': HOOKS['{kind}']}}")
"""

REFUSED = {
    "--importance mine": "mine (mine.py) raised KeyError: 'nothing' in {file}:13",
    "--importance mine:how=raise": "mine:how=raise (mine.py) raised KeyError: 'nothing' in {file}:13",
    "--importance mine:torch": "mine:torch (mine.py) raised RuntimeError",
    "--importance mine:how=empty": "mine:how=empty (mine.py) gave no score for",
    "--reinit mine/mine:how=raise": "mine/mine:how=raise (mine.py) raised KeyError: 'nothing' in {file}:",
    "--reinit mine:nothing": "mine:nothing (mine.py) matched no parameter of",
    "--reinit mine:nowhere": "mine:nowhere (mine.py)",
    "--intervention mine": "mine (mine.py) raised KeyError: 'nothing' in {file}:",
    "--intervention mine:text": "mine:text (mine.py) keeps 'a' in its state",
    "--replay mine:x": "mine:x (mine.py) kept a sample twice",
    "--model mine": "the model mine (mine.py) raised KeyError: 'nothing' in {file}:",
    "--model mine:narrow": "the model mine:narrow (mine.py) cannot take samples",
    "--model mine:none": "mine:none (mine.py) built int",
    "--model import:my:Net": "the model import:my:Net (my.py) gives outputs of shape (7,)",
    "--model import:my:Fails": "import:my:Fails (my.py) cannot take samples of shape (1, 4, 4): what in {my}:11",
    "--model import:my:raises": "import:my:raises: calling it raised ValueError: no in {my}:13",
}
NETS = """from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 7)
    def forward(self, x):
        return self.layer(x.flatten(1))
class Fails(nn.Module):
    def forward(self, x):
        x = x + 1
        raise ValueError("what")
def raises():
    raise ValueError("no")
"""


@pytest.mark.slow
@pytest.mark.parametrize("words", REFUSED)
def test_a_run_names_the_spec(plugin, tiny, workdir, monkeypatch, words: str) -> None:
    file = plugin("mine", MINE)
    my = plugin("my", NETS)
    monkeypatch.delitem(__import__("sys").modules, "my", raising=False)
    option, spec = words.split()
    said = tiny("--plugin", file, option, spec, "--out", "runs")
    assert said.status
    assert REFUSED[words].format(file=file, my=my) in said.err
    assert len(said.err.splitlines()) == 1
    assert not (workdir / "runs").exists()


def test_an_error_of_torch_names_the_line_of_the_caller(plugin, tiny) -> None:
    file = plugin("mine", MINE)
    said = tiny("--plugin", file, "--importance", "mine:torch")
    assert f"in {file}:15" in said.err


@pytest.mark.slow
def test_observers_and_analyses_too(plugin, tiny, cli, workdir, caplog) -> None:
    file = plugin("mine", MINE)
    with caplog.at_level(logging.WARNING):
        assert tiny("--plugin", file, "--observer", "mine:how=x", "--out", ".", "--name", "r").status == 0
    assert any("observer mine:how=x (mine.py) is detached: KeyError" in message for message in caplog.messages)
    for spec, says in (("mine", "mine (mine.py) raised KeyError"), ("mine:how=x", "mine:how=x (mine.py) answered int")):
        said = cli("analyze", "r", spec, "--plugin", file)
        assert f"the analysis {says}" in said.out + said.err


def test_an_installed_one_is_named_with_its_distribution(install, tiny) -> None:
    install("mine-dist", "mine", MINE)
    said = tiny("--importance", "mine:how=empty")
    assert "mine:how=empty (mine-dist 1.2) gave no score" in said.err
    with pytest.raises(ComponentError, match=r"criterion mine-dist/mine \(mine-dist 1\.2\) raised KeyError"):
        forgetkit.score(torch.nn.Linear(2, 2), None, importance="mine-dist/mine")


def test_a_name_is_kept_beside_the_options(plugin) -> None:
    loaded = registry.load(files=[plugin("mine", MINE)], entry_points=False)
    spec, one = loaded.make("importance", "mine:how=x")
    again = loaded.make("importance", spec)[1]
    assert one == again == type(one)("x")
    assert hash(one) == hash(again)
    assert repr(one) == "Scorer(how='x')"
    assert dataclasses.asdict(one) == {"how": "x"}
    assert component_name(one) == component_name(again) == "mine:how=x (mine.py)"
    assert component_name(loaded.make("importance", "mine:how=raise")[1]) == "mine:how=raise (mine.py)"
    assert component_name(type(one)("x")) == "Scorer"  # an object given in Python goes by its class


def test_the_python_api_names_a_spec() -> None:
    with pytest.raises(ForgetkitError, match=r"^cold looks at no scores, so scoring= would be ignored"):
        forgetkit.unlearn(torch.nn.Linear(2, 2), reinit="cold", scoring=forgetkit.Scoring())
