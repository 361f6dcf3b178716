"""How many threads ``--threads auto`` comes to, and that the record fixes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import forgetkit
from forgetkit.contracts import Answer, Event, Evidence, Inputs, RunStarted
from forgetkit.errors import ForgetkitError
from forgetkit.training import choose_threads, count_operations, precision

CPU = torch.device("cpu")
SMALL = {"dataset": "synthetic:samples=60,test=20,classes=3", "model": "mlp:width=8", "epochs": 1, "mega_batches": 2}


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(8, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1).mean((2, 3))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer = kind(8, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x.flatten(1, 2))[0][:, -1]
        return outputs


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x.flatten(1, 2)).mean(1)
        return outputs


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), 2 * 12 * 5),
        (nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten()), (3, 9, 9), 2 * 27 * 4 * 16),
        (Functional(), (3, 8, 8), 2 * 27 * 8 * 64),
        (Recurrent(nn.LSTM), (1, 6, 8), 2 * 6 * (8 + 16) * 4 * 16),
        (Recurrent(nn.GRU), (1, 6, 8), 2 * 6 * (8 + 16) * 3 * 16),
        # query, key and value, what joins the heads, two layers; of attention's own products torch knows nothing here
        (Attention(), (1, 6, 8), 2 * 6 * (8 * 24 + 8 * 8 + 2 * 8 * 16)),
    ],
    ids=["linear", "conv", "functional", "lstm", "gru", "attention"],
)
def test_operations_are_counted_whoever_computes_them(model: nn.Module, shape: Any, expected: int) -> None:
    model.train()
    before = torch.get_rng_state()
    assert count_operations(model, Inputs(shape, 10, (), ()), 64, CPU) == 64 * expected
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture(params=[2, 3])
def torchs_own(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many threads as torch would take by itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_only_many_operations_take_more_than_one_thread() -> None:
    border = precision._THREADS_OPERATIONS
    assert choose_threads(border - 1, 3) == 1
    assert choose_threads(border, 3) == 3


@dataclass
class Watch:
    """Notes the threads that a run computes with, and those that it has on record."""

    found: list[int] = field(default_factory=list)
    recorded: list[Any] = field(default_factory=list)

    def notify(self, event: Event) -> None:
        self.found.append(torch.get_num_threads())
        if isinstance(event, RunStarted):
            self.recorded.append(event.config["threads"])


def test_a_small_network_is_trained_by_one_thread(torchs_own: int, tmp_path: Path) -> None:
    watch = Watch()
    result = forgetkit.run({**SMALL, "out": tmp_path}, observers=[watch])
    manifest = json.loads((Path(result["directory"]) / "manifest.json").read_text())
    assert (set(watch.found), watch.recorded, manifest["config"]["threads"]) == ({1}, [1], 1)
    assert torch.get_num_threads() == torchs_own


@pytest.mark.parametrize("state", [True, False], ids=["with a state", "before the first state"])
def test_large_network_is_resumed_with_its_original_threads(
    state: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(precision, "_THREADS_OPERATIONS", 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)

        @dataclass
        class Stop:
            def notify(self, event: Event) -> None:
                if type(event).__name__ == ("Checkpointed" if state else "RunStarted"):
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            forgetkit.run(
                {**SMALL, "out": tmp_path, "name": "cut", "epochs": 2, "checkpoint_epochs": 1}, observers=[Stop()]
            )
        torch.set_num_threads(2)
        watch = Watch()
        result = forgetkit.run(resume=tmp_path / "cut", observers=[watch])
        assert result["config"]["threads"] == 3
        assert set(watch.found) == {3}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_question_is_answered_with_the_threads_of_its_run(torchs_own: int, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Count:
        """Notes the number of threads."""

        def analyze(self, evidence: Evidence) -> Answer:
            return Answer({"threads": float(torch.get_num_threads())})

        def compare(self, cells: Any) -> Answer:
            return self.analyze(cells[0].evidence)

    result = forgetkit.run({**SMALL, "out": tmp_path})

    def asked(**given: int) -> Any:
        return forgetkit.analyze(result["directory"], Count(), again=True, **given).numbers["threads"].value

    assert (asked(), asked(threads=4)) == (1, 4)
    with pytest.raises(ForgetkitError, match="threads 0: must be a number from 1"):
        asked(threads=0)


@pytest.mark.parametrize("value", ["0", "-1", "1025", "lots", "AUTO", "1.5", ""])
def test_threads_are_a_number_or_auto(cli: Any, tiny_words: list[str], value: str) -> None:
    said = cli(*tiny_words[:-2], "--threads", value)
    assert (said.status, said.err) == (2, f"forgetkit: --threads {value}: must be a number from 1 to 1024, or auto\n")


def test_a_dry_run_says_what_auto_came_to(cli: Any, tiny_words: list[str]) -> None:
    assert cli(*tiny_words[:-2], "--dry-run", "--json").json["config"]["threads"] == 1


@pytest.mark.children
@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_threads_wait_asleep_from_before_torch_is_there(chosen: str | None) -> None:
    code = (
        "import os, sys; from forgetkit.cli import main; before = 'torch' in sys.modules; main(['presets', 'list']);"
        "print(before, os.environ.get('OMP_WAIT_POLICY'))"
    )
    own = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")}
    environment = own if chosen is None else {**own, "OMP_WAIT_POLICY": chosen}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == f"False {chosen or 'PASSIVE'}"
