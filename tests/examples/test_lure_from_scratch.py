"""The example in plain torch and the engine give the same bits."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import forgetkit
from forgetkit.config import resolve
from forgetkit.registry import registry

EXAMPLE = Path(__file__).parents[2] / "examples" / "lure_from_scratch.py"


def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture
def single_thread() -> Iterator[None]:
    """One thread, as the example's command takes; the seed that the example sets is undone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("single_thread")
@pytest.mark.parametrize(("seed", "mega_batches", "epochs"), [(0, 3, 3), (1, 2, 5)])
def test_example_equals_the_paper_preset(
    seed: int, mega_batches: int, epochs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = {"mega_batches": mega_batches, "epochs": epochs}
    model, accuracies, cer, gap = example()["lure"](seed, **protocol)

    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:-1]] == [str(i + 1) for i in range(mega_batches)]
    assert table[-1] == f"test accuracy {accuracies[-1]:.2%}, CER {cer}, generalization gap {gap:.2%}"

    machine = {"device": "cpu", "precision": "fp32", "threads": 1}
    result = forgetkit.run({"preset": "paper", "seed": seed, "out": str(tmp_path), **machine, **protocol})
    assert accuracies == [row["test_accuracy"] for row in result["mega_batches"]]
    assert (cer, gap) == (result["cer"], result["generalization_gap"])
    checkpoint = Path(result["directory"]) / "checkpoints" / f"mega-batch-{mega_batches:03}.pt"
    expected = torch.load(checkpoint, weights_only=True)["model"]
    state = model.state_dict()
    assert expected.keys() - state.keys() == {"normalize.mean", "normalize.std"}  # the example normalizes beforehand
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name


def test_example_defaults_to_the_protocol_of_the_preset() -> None:
    config = resolve({"preset": "paper"}, registry.load(entry_points=False)).config
    assert (config.dataset, config.model) == ("digits", "convnet:width=32")
    assert example()["lure"].__defaults__ == (config.mega_batches, config.epochs)


def test_example_stays_short_and_plain() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 100
    imported = [line.split()[1] for line in lines if line.startswith(("import forgetkit", "from forgetkit"))]
    assert imported == ["forgetkit.builtin.models.convnet", "forgetkit.contracts", "forgetkit.seeding"]
