"""What a caller has set changes no number of a run, a cell or an analysis, and is found again afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hostile_settings
from helpers.clean_runs import OPTIONS, clean, require_same, trained
from torch import Tensor, nn

import forgetkit
from forgetkit.ablation.worker import Task, run_cell
from forgetkit.engine import dry_run
from forgetkit.results.cell_store import CellStore

STATES = hostile_settings.HOSTILE | {"all": hostile_settings.all_at_once}


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_a_run(name: str) -> None:
    expected = clean("fp32")
    with STATES[name]():
        before = hostile_settings.seen()
        found = trained()
        assert hostile_settings.seen() == before
    require_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autocast", "all"])
def test_a_run_in_bf16_casts_its_weights_anew_at_each_step(name: str) -> None:
    expected = clean("bf16")
    with STATES[name]():
        require_same(trained("bf16"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float64", "inference", "default-device", "all"])
def test_a_cell(name: str, tmp_path: Path) -> None:
    rows = []
    for folder in ("clean", "hostile"):
        options = {key: value for key, value in OPTIONS.items() if key != "keep_models"}
        task = Task(str(tmp_path / folder), "0" * 64, options)
        (tmp_path / folder).mkdir()
        if folder == "clean":
            run_cell(task)
        else:
            with STATES[name]():
                before = hostile_settings.seen()
                run_cell(task)
                assert hostile_settings.seen() == before
        result = forgetkit.run(resume=CellStore(tmp_path / folder).directory("0" * 64))
        rows.append([(row["test_errors"], row["train_accuracy"]) for row in result["mega_batches"]])
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = forgetkit.run({**OPTIONS, "out": str(tmp_path_factory.mktemp("runs"))})
    return Path(result["directory"])


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_analysis_and_lazy_evidence_ignore_the_callers_settings(name: str, finished: Path) -> None:
    def looked_at() -> tuple[Any, Tensor, Tensor, Tensor]:
        answer = forgetkit.analyze(finished, "calibration", again=True)
        evidence = forgetkit.evidence(finished)
        samples = evidence.samples("test", 10)
        batch, _ = next(iter(samples.batches(4)))
        outputs = evidence.outputs(samples)
        scores = evidence.scores("snip")
        return answer.numbers, outputs, next(iter(scores.values())), batch

    expected = looked_at()
    with STATES[name]():
        before = hostile_settings.seen()
        found = looked_at()
        assert hostile_settings.seen() == before
    assert found[0] == expected[0]
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_callers_grad_mode_is_restored_between_sample_batches(finished: Path) -> None:
    samples = forgetkit.evidence(finished).samples("test")
    with torch.no_grad():
        batches = samples.batches(4)
        next(batches)
        assert not torch.is_grad_enabled()
    batches.close()  # type: ignore[attr-defined]
    assert torch.is_grad_enabled()


def test_evidence_of_a_model_ignores_the_callers_settings() -> None:
    model = nn.Linear(3, 2)
    inputs, labels = torch.randn(8, 3), torch.arange(8) % 2
    with torch.no_grad():
        expected = model(inputs)
    with STATES["all"]():
        found = forgetkit.evidence(model, test=(inputs, labels))
        assert torch.equal(found.outputs(found.samples("test")), expected)


def test_a_dry_run(tmp_path: Path) -> None:
    from forgetkit import config
    from forgetkit.registry import registry

    plan = config.resolve({**OPTIONS, "out": str(tmp_path)}, registry.load(entry_points=False))
    with STATES["all"]():
        before = hostile_settings.seen()
        assert dry_run.estimate_cost(plan, [], tmp_path)["parameters"]
        assert hostile_settings.seen() == before
