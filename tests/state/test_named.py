"""What a plugin's import or a component's call changes of torch's settings is put back, and named once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hostile_settings
from helpers.clean_runs import OPTIONS, clean, require_same
from torch import Tensor, nn

import forgetkit
from forgetkit.contracts import (
    Answer,
    Change,
    Data,
    Evidence,
    Inputs,
    Intervention,
    InterventionContext,
    LoadContext,
    Probe,
)
from forgetkit.storage import RunDirectory

LEFT = """
import torch, warnings, numpy
{change}
from collections.abc import Mapping
from dataclasses import dataclass
import forgetkit

@dataclass(frozen=True)
class Sly:
    '''As large as it is.'''
    needs_data = False

    def score(self, probe):
        {call}
        return {{name: target.abs() for name, target in probe.targets.items()}}

@forgetkit.hookimpl
def forgetkit_importance():
    return {{"sly": Sly}}
"""
CHANGES = {
    "torch.set_default_dtype(torch.float64)": "torch.set_default_dtype",
    "torch.set_grad_enabled(False)": "torch.set_grad_enabled",
    "kept = torch.inference_mode(); kept.__enter__()": "torch.inference_mode",
    "torch.set_default_device('meta')": "torch.set_default_device",
    "torch.device('meta').__enter__()": "torch.set_default_device",
    "torch.autocast('cpu').__enter__()": "torch.autocast",
    "torch.set_float32_matmul_precision('medium')": "torch.set_float32_matmul_precision",
    "torch.backends.mkldnn.enabled = False": "torch.backends.mkldnn.enabled",
    "torch.backends.cudnn.benchmark = True": "torch.backends.cudnn.benchmark",
    "torch.autograd.set_detect_anomaly(True)": "torch.autograd.set_detect_anomaly",
    "torch.set_flush_denormal(True)": "torch.set_flush_denormal",
    "torch.set_num_threads(3)": "torch.set_num_threads",
    "torch.use_deterministic_algorithms(True, warn_only=True)": "torch.use_deterministic_algorithms",
    "torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 2)": "hooks on every module",
    "numpy.seterr(all='raise')": "numpy.seterr",
    "warnings.filterwarnings('error', message='sly')": "warnings.simplefilter",
}


def plugin(folder: Path, *, change: str = "", call: str = "pass") -> Path:
    file = folder / "sly.py"
    file.write_text(LEFT.format(change=change, call=call), encoding="utf-8")
    return file


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "for the whole process" in record.getMessage()]


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_plugin_file_whose_import_changes_a_setting(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected, before = clean("fp32"), hostile_settings.seen()
    file = plugin(tmp_path, change=change)
    result = forgetkit.run({**OPTIONS, "out": str(tmp_path)}, plugins=[file])
    assert hostile_settings.seen() == before
    (line,) = lines(caplog)
    assert str(file) in line
    assert CHANGES[change] in line
    errors = [row["test_errors"] for row in result["mega_batches"]]
    require_same((errors, dict(expected[1])), expected)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["torch.set_default_dtype(torch.float64)", "torch.set_grad_enabled(False)"])
def test_a_criterion_whose_call_changes_a_setting(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = []
    for folder, call in (("clean", "pass"), ("sly", change)):
        (tmp_path / folder).mkdir()
        options = {**OPTIONS, "mega_batches": 3, "importance": "sly", "out": str(tmp_path / folder)}
        result = forgetkit.run(options, plugins=[plugin(tmp_path / folder, call=call)])
        results.append(RunDirectory(Path(result["directory"])).model(3))
    (line,) = lines(caplog)  # although it was called three times
    assert "sly (" in line
    assert CHANGES[change] in line
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def slip() -> None:
    torch.set_default_dtype(torch.float64)


@dataclass(frozen=True)
class SlyIntervention(Intervention):
    """Changes a setting at each step."""

    def after_step(self, moment: InterventionContext) -> None:
        slip()


@dataclass(frozen=True)
class SlyObserver:
    """Changes a setting at each event."""

    def notify(self, event: Any) -> None:
        slip()


@dataclass(frozen=True)
class SlyReinit:
    """Changes a setting while it proposes."""

    def propose(self, context: Any) -> Any:
        slip()
        for name in context.targets:
            yield Change(name, None, context.fresh(name))


@dataclass(frozen=True)
class SlyReplay:
    """Changes a setting while it chooses."""

    def retain(self, buffer: Any, arrivals: Any, rng: Any) -> Any:
        slip()
        return np.concatenate([buffer.ids, arrivals.ids])


@dataclass(frozen=True)
class SlyMetric:
    """Changes a setting while it counts."""

    def compute(self, rows: Any) -> float:
        slip()
        return 1.0


@dataclass(frozen=True)
class SlyData:
    """Changes a setting while it loads."""

    def load(self, context: LoadContext) -> Data:
        from forgetkit.builtin.datasets.synthetic import Synthetic

        slip()
        return Synthetic(samples=80, test=40, classes=4, size=4).load(context)


class SlyNetwork(nn.Linear):
    """Changes a setting as it runs."""

    def forward(self, x: Tensor) -> Tensor:
        slip()
        return super().forward(x)


@dataclass(frozen=True)
class SlyBuilder:
    """Changes a setting as it builds."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        head = nn.Linear(48, inputs.classes)
        slip()
        return nn.Sequential(normalize, nn.Flatten(), head)


@dataclass(frozen=True)
class SlyForward:
    """Builds a network that changes a setting as it is trained."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        return nn.Sequential(normalize, nn.Flatten(), SlyNetwork(48, inputs.classes))


@dataclass(frozen=True)
class SlyAnalysis:
    """Changes a setting as it looks."""

    def analyze(self, evidence: Evidence) -> Answer:
        slip()
        return Answer({"classes": len(evidence.classes)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interventions": [SlyIntervention()]}, "SlyIntervention"),
        ({"observers": [SlyObserver()]}, "SlyObserver"),
        ({"importance": None, "reinit": SlyReinit()}, "SlyReinit"),
        ({"replay": SlyReplay()}, "SlyReplay"),
        ({"metrics": [SlyMetric()]}, "SlyMetric"),
        ({"dataset": SlyData()}, "SlyData"),
        ({"model": SlyBuilder()}, "SlyBuilder"),
        ({"model": SlyForward()}, "SlyForward"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_component_of_each_kind(
    options: Mapping[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = hostile_settings.seen()
    given = {**OPTIONS, **options, "out": str(tmp_path)}
    forgetkit.run({key: value for key, value in given.items() if value is not None})
    assert hostile_settings.seen() == before
    found = lines(caplog)
    assert len(found) == len(set(found)) >= 1
    assert all(said in line and "torch.set_default_dtype" in line for line in found)


def test_an_analysis(caplog: pytest.LogCaptureFixture) -> None:
    before = hostile_settings.seen()
    forgetkit.analyze(nn.Linear(3, 2), SlyAnalysis(), test=(torch.randn(4, 3), torch.arange(4) % 2))
    assert hostile_settings.seen() == before
    (line,) = lines(caplog)
    assert "SlyAnalysis" in line


def test_in_a_user_s_own_loop(caplog: pytest.LogCaptureFixture) -> None:
    model, before = nn.Linear(3, 2), hostile_settings.seen()
    attached = forgetkit.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), [SlyIntervention()])
    inputs, targets = torch.randn(4, 3), torch.arange(4) % 2
    attached.begin(inputs, targets)
    for _ in range(3):
        with attached.step(inputs, targets) as step:
            model(inputs).sum().backward()
            step.before()
    assert hostile_settings.seen() == before
    (line,) = lines(caplog)  # for three steps
    assert "SlyIntervention" in line


@dataclass(frozen=True)
class Bystander:
    """Looks, and leaves all as it is."""

    needs_data = False

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        with torch.no_grad(), torch.autocast("cpu"), torch.device("cpu"):
            return {name: target.abs() for name, target in probe.targets.items()}


def test_who_takes_back_what_it_sets_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    forgetkit.score(nn.Linear(3, 2), [(torch.randn(4, 3), torch.arange(4) % 2)], importance=Bystander())
    assert not lines(caplog)
