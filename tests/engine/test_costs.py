"""What a run costs: its passes against a meter inside the network, its memory, and both after an interruption."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forgetkit
from forgetkit.contracts import EpochEnded, Event, Inputs, MegaBatchEnded, RunStarted
from forgetkit.errors import RunDirectoryError
from forgetkit.storage import read_with_digest, write_with_digest
from forgetkit.system import peak_memory

SMALL = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1,noise=2.0",
    "mega_batches": 2,
    "epochs": 1,
    "batch_size": 9,
    "threads": 1,
}
METER = {"forward": 0, "backward": 0}


class Counted(torch.autograd.Function):
    """Changes nothing and counts the samples that come by, mapped over or not, on the way back too."""

    @staticmethod
    def forward(x: Tensor, way: str) -> Tensor:
        METER[way] += len(x)
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.way = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (Counted.apply(grad, "backward") if ctx.way == "forward" else grad), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, way: str) -> tuple[Tensor, int]:
        return Counted.apply(x.movedim(in_dims[0] or 0, 0), way), 0


class Meter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Counted.apply(x, "forward")


@dataclass(frozen=True)
class Metered:
    """A small network that counts for itself."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        first = nn.Sequential(nn.Conv2d(inputs.shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        return nn.Sequential(normalize, first, nn.Linear(16, inputs.classes), Meter())

    def initialise(self, module: nn.Module) -> None:
        """So that nothing is built again, and tried again, for fresh values."""
        module.reset_parameters()


@dataclass(eq=False)
class Readings:
    """The meter at the end of each mega-batch, less what it stood at when the last had ended."""

    rows: list[dict[str, int]] = field(default_factory=list)
    _before: dict[str, int] = field(default_factory=dict)

    def notify(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._before = dict(METER)
        elif isinstance(event, MegaBatchEnded):
            self.rows.append({way: METER[way] - self._before[way] for way in METER})
            self._before = dict(METER)


PER_SAMPLE = ("snip:reduce=per-sample", "fisher", "fisher:variant=sampled", "fisher-obd", "mas", "snip-sample")


def metered(folder: Path, plugins: Sequence[Path] = (), **options: Any) -> tuple[dict[str, Any], list[dict[str, int]]]:
    """A run, and what the meter says of each mega-batch, less the samples that it was judged and examined on."""
    readings = Readings()
    result = forgetkit.run(
        {**SMALL, "model": Metered(), "out": folder, **options}, observers=[readings], plugins=plugins
    )
    for row, read in zip(result["mega_batches"], readings.rows, strict=True):
        read["forward"] -= row["train_samples"] + row["val_samples"] + row["test_samples"]
        if row["unlearn"] is not None:  # two samples show how the network is made
            shown = 2 + (str(options.get("importance")) in PER_SAMPLE)  # and one, whether vmap gives its gradient
            heads = 2 * (options.get("method") == "rifle")  # and a forward pass of two shows the heads
            read["forward"], read["backward"] = read["forward"] - shown - heads, read["backward"] - shown
    return result, readings.rows


def counted(rows: list[Mapping[str, Any]]) -> list[dict[str, int]]:
    return [{way: row[f"{way}_passes"] for way in METER} for row in rows]


FORGETTING = [
    *(
        {"importance": name}
        for name in ("snip:samples=20", "snip:reduce=per-sample", "fisher", "fisher:variant=sampled")
    ),
    *({"importance": name} for name in ("fisher:variant=sampled", "magnitude", "random")),
    *({"method": name} for name in ("warm", "cold", "rifle", "llf", "shrink-perturb")),
    {"importance": "snip:reduce=mean-abs", "bn_stats": "recalibrate"},
    {"importance": "snip:samples=0.5", "score_mode": "train", "score_on": "union"},
]
STRANGERS = (
    *("fisher-obd", "gradient", "grasp", "gxd", "hessian:probes=2", "lamp", "mas", "movement", "path-integral"),
    *("snip-sample", "synflow", "taylor", "wanda"),
)


@pytest.mark.slow
@pytest.mark.parametrize("options", FORGETTING, ids=lambda options: " ".join(options.values()))
def test_what_is_counted_is_what_a_meter_in_the_network_counts(tmp_path: Path, options: dict[str, str]) -> None:
    result, read = metered(tmp_path, **options)
    assert counted(result["mega_batches"]) == read
    for row in result["mega_batches"]:
        forgetting = row["unlearn"] or {"forward_passes": 0, "backward_passes": 0}
        for way in ("forward_passes", "backward_passes"):
            assert row[way] == row["samples_seen"] + forgetting[way]
    assert result["forward_passes"] == sum(row["forward_passes"] for row in result["mega_batches"])
    assert result["backward_passes"] == sum(row["backward_passes"] for row in result["mega_batches"])


@pytest.mark.slow
@pytest.mark.parametrize("name", STRANGERS)
def test_so_it_is_for_criteria_of_plugins(tmp_path: Path, name: str) -> None:
    pytest.importorskip("forgetkit_saliency")
    result, read = metered(tmp_path, importance=name)
    assert counted(result["mega_batches"]) == read


@pytest.mark.parametrize(
    ("importance", "forward", "backward"),
    [("snip:samples=20", 20, 20), ("snip:reduce=per-sample,samples=20", 20, 20), ("fisher:samples=0.5", 16, 16),
     ("random", 0, 0), ("curved", 32, 64)],
)  # fmt: skip
def test_the_report_of_a_forgetting_says_what_it_cost(importance: str, forward: int, backward: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    batches = [(torch.randn(16, 4), torch.arange(16) % 3) for _ in range(2)]
    report = forgetkit.unlearn(model, batches, importance=Curved() if importance == "curved" else importance)
    assert (report.forward_passes, report.backward_passes) == (forward, backward)
    assert json.loads(json.dumps(report.as_dict()))["forward_passes"] == forward


@dataclass(frozen=True)
class Curved:
    """The Hessian's product with the weights: a gradient, and the gradient of that."""

    def score(self, probe: Any) -> dict[str, Tensor]:
        total = probe.zeros()
        for inputs, targets in probe.batches():
            for name, product in probe.hvp(inputs, targets, probe.targets).items():
                total[name] += product
        return total


LOOKING = """
import dataclasses
import torch
import forgetkit

@dataclasses.dataclass(frozen=True)
class Looking(forgetkit.contracts.Intervention):
    def loss(self, moment):
        with torch.no_grad():
            moment.model(moment.inputs[:3])
        return 0 * moment.model(moment.inputs[:2]).sum()

    def after_epoch(self, moment):
        with moment.context.probe() as probe:
            for inputs, targets in probe.batches(5):
                probe.grads(inputs, targets)
                probe.outputs(inputs)

@forgetkit.hookimpl
def forgetkit_interventions():
    return {"looking": Looking}
"""
"""Runs the model itself in each step, and looks at a batch through a probe after each epoch."""


@pytest.fixture
def looking(tmp_path: Path) -> Path:
    file = tmp_path / "looking.py"
    file.write_text(LOOKING)
    return file


def test_what_an_intervention_runs_is_counted(tmp_path: Path, looking: Path) -> None:
    result, read = metered(tmp_path, [looking], interventions=["looking"], importance="magnitude", epochs=2)
    assert counted(result["mega_batches"]) == read
    first = result["mega_batches"][0]
    steps = 2 * -(-first["train_samples"] // SMALL["batch_size"])
    assert first["forward_passes"] == first["samples_seen"] + 5 * steps + 2 * 2 * 5
    assert first["backward_passes"] == first["samples_seen"] + 2 * steps + 2 * 5


@dataclass(frozen=True)
class Cut:
    """Interrupts after an epoch in the middle of the second mega-batch."""

    def notify(self, event: Event) -> None:
        if isinstance(event, EpochEnded) and (event.mega_batch, event.epoch) == (2, 2):
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_run_has_cost_what_another_has(tmp_path: Path, substance: Any, looking: Path) -> None:
    options = {**SMALL, "model": "mlp:width=8", "out": tmp_path, "checkpoint_epochs": 1, "epochs": 3}
    options |= {"interventions": ["looking"], "importance": Curved()}
    whole = forgetkit.run({**options, "name": "whole"}, plugins=[looking])
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**options, "name": "cut"}, observers=[Cut()], plugins=[looking])
    resumed = forgetkit.run({"importance": Curved()}, resume=tmp_path / "cut", plugins=[looking])
    assert substance(resumed) == substance(whole)
    assert whole["forward_passes"] > whole["samples_seen"]


def test_a_record_without_costs_is_told_and_not_guessed(tmp_path: Path) -> None:
    options = {**SMALL, "model": "mlp:width=8", "out": tmp_path, "checkpoint_epochs": 1, "epochs": 3, "name": "old"}
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run(options, observers=[Cut()])
    (tmp_path / "old" / "events.jsonl").unlink()  # which tell of the rows too
    for row in (tmp_path / "old" / "checkpoints").glob("resume-row-*.json"):
        content = read_with_digest(row)
        content["row"] = {k: v for k, v in content["row"].items() if not k.endswith("_passes")}
        write_with_digest(row, content)
    with pytest.raises(RunDirectoryError, match=r"is damaged.*forward_passes"):
        forgetkit.run(resume=tmp_path / "old")


def test_the_peak_is_of_what_is_watched() -> None:
    watch = peak_memory.track_peak(torch.device("cpu"))
    before = watch()
    if before is None or not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say")
    large = torch.ones(2**24)  # 64 MiB
    high = watch()
    assert high is not None
    assert high >= before
    del large
    assert watch() >= high - 2**20
    assert peak_memory.track_peak(torch.device("cpu"))() <= high


def test_where_the_peak_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "_PROCESS", tmp_path)
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t   123 kB\nVmRSS:\t  100 kB\n")
    assert peak_memory.track_peak(torch.device("cpu"))() == 123 * 1024
    assert (tmp_path / "clear_refs").read_text() == "5"
    (tmp_path / "status").unlink()
    pytest.importorskip("resource")
    assert peak_memory.track_peak(torch.device("cpu"))() > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory.track_peak(torch.device("cpu"))() is None


def test_a_run_and_a_rehearsal_say_their_memory(tmp_path: Path) -> None:
    result = forgetkit.run({**SMALL, "model": "mlp:width=8", "out": tmp_path})
    assert result["peak_memory_bytes"] is None or result["peak_memory_bytes"] > 2**20
