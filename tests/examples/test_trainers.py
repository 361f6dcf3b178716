"""Each example of a trainer runs, is short, and forgets."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from helpers.optional_packages import import_or_skip

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("with_*.py"))
PACKAGES = {"lightning": "lightning.pytorch"}
TRAINERS = [path.stem.removeprefix("with_") for path in EXAMPLES]


def test_each_trainer_has_an_example():
    assert TRAINERS == ["accelerate", "avalanche", "lightning", "skorch", "transformers"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", EXAMPLES, ids=TRAINERS)
def test_an_example_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = path.stem.removeprefix("with_")
    import_or_skip(PACKAGES.get(trainer, trainer))
    import_or_skip(f"forgetkit.integrations.{trainer}")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        found = runpy.run_path(str(path))["forget"]
    assert found.resets == (3 if trainer == "accelerate" else 2)
    assert found.last_report.reset > 0


@pytest.mark.parametrize("path", EXAMPLES, ids=TRAINERS)
def test_an_example_is_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line and not line.startswith('"""')]) <= 15
    assert max(map(len, lines)) <= 100
