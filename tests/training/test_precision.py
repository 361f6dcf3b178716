"""The rules for `auto` precision and memory format, and that the memory format changes no result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import forgetkit
from forgetkit.contracts import Checkpointed, Event, Inputs, OptionResolved
from forgetkit.errors import ConfigError
from forgetkit.training import bf16_failure, choose_memory_format, choose_precision, precision

CPU = torch.device("cpu")
IMAGES = Inputs((3, 16, 16), 10, (0.5,) * 3, (0.3,) * 3)
FEATURES = Inputs((7,), 10, (0.5,) * 7, (0.3,) * 7)


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies bf16, and a rule that takes any network for large enough."""
    monkeypatch.setattr(precision, "has_native_bf16", lambda device: True)
    monkeypatch.setattr(precision, "_BF16_OPERATIONS", 1.0)


@pytest.mark.parametrize(
    ("asked", "inputs", "model", "device", "expected"),
    [
        ("auto", IMAGES, convolutional(), "cpu", "channels-last"),
        ("auto", IMAGES, convolutional(), "cuda", "channels-last"),
        ("auto", IMAGES, convolutional(), "mps", "contiguous"),
        ("auto", IMAGES, nn.Linear(3, 3), "cpu", "contiguous"),
        ("auto", FEATURES, nn.Linear(7, 10), "cpu", "contiguous"),
        ("contiguous", IMAGES, convolutional(), "cpu", "contiguous"),
        ("channels-last", IMAGES, convolutional(), "cpu", "channels-last"),
    ],
)
def test_the_memory_format(asked: str, inputs: Inputs, model: nn.Module, device: str, expected: str) -> None:
    assert choose_memory_format(asked, model, inputs, torch.device(device)) == expected


def strided(channels: int, kernel: int = 1, stride: int = 2, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3),
        nn.Conv2d(channels, 16, kernel, stride=stride, groups=groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@pytest.mark.parametrize(
    ("model", "safe"),
    [
        (strided(8), False),
        (strided(15), False),
        (strided(1, stride=3), False),
        (strided(16, groups=2), False),
        (strided(16), True),
        (strided(8, kernel=3), True),
        (strided(8, stride=1), True),
    ],
)
def test_channels_last_is_left_to_what_it_cannot_crash(model: nn.Module, safe: bool) -> None:
    assert choose_memory_format("auto", model, IMAGES, CPU) == ("channels-last" if safe else "contiguous")
    assert choose_memory_format("contiguous", model, IMAGES, CPU) == "contiguous"
    assert choose_memory_format("auto", model, IMAGES, torch.device("cuda")) == "channels-last"
    if safe:
        assert choose_memory_format("channels-last", model, IMAGES, CPU) == "channels-last"
    else:
        with pytest.raises(ConfigError, match="can end the process at '1', a strided 1x1 convolution"):
            choose_memory_format("channels-last", model, IMAGES, CPU)


_STEP = """
import sys, torch
from forgetkit import training
from forgetkit.registry.registry import registry
from forgetkit.contracts import Inputs
from forgetkit.seeding import Seeds
torch.set_num_threads(2)
cpu, inputs = torch.device("cpu"), Inputs((3, 32, 32), 10, (0.0,) * 3, (1.0,) * 3)
model = training.build_network(registry.load().make("models", "resnet18:width=8")[1], inputs, Seeds(0))
chosen = training.choose_memory_format("auto", model, inputs, cpu) if sys.argv[1] == "auto" else sys.argv[1]
model = training.to_device(model, chosen, cpu)
for _ in range(3):
    model(torch.rand(33, 3, 32, 32)).square().sum().backward()
"""


@pytest.mark.children
@pytest.mark.skipif(not torch.__version__.startswith("2.15."), reason="torch 2.15 alone is known to crash there")
def test_a_step_of_the_narrow_resnet_leaves_the_process_alive() -> None:
    def status(form: str) -> int:
        return subprocess.run([sys.executable, "-c", _STEP, form], check=False).returncode

    assert status("auto") == 0
    assert status("channels-last") < 0, "torch is mended: the rule can go"


def test_five_dimensions_cannot_lie_so() -> None:
    model = convolutional()
    model.register_buffer("volumes", torch.zeros(1, 1, 1, 1, 1))
    assert choose_memory_format("auto", model, IMAGES, CPU) == "contiguous"
    precision.to_device(model, "contiguous", CPU)
    with pytest.raises(ConfigError, match="five dimensions"):
        choose_memory_format("channels-last", model, IMAGES, CPU)


def test_a_memory_format_that_would_be_ignored_is_refused() -> None:
    with pytest.raises(ConfigError, match="--memory-format channels-last would be ignored"):
        choose_memory_format("channels-last", nn.Linear(7, 10), FEATURES, CPU)


@pytest.mark.parametrize(
    ("machine", "amx", "avx512", "arm", "mkldnn", "native"),
    [
        ("x86_64", True, False, False, True, True),
        ("x86_64", False, True, False, True, True),
        ("x86_64", False, False, True, True, False),  # oneDNN emulates bf16 with AVX512 alone
        ("aarch64", False, False, True, True, True),
        ("arm64", False, False, False, True, False),
        ("x86_64", True, True, True, False, False),
    ],
)
def test_which_processors_multiply_bf16(
    monkeypatch: pytest.MonkeyPatch, machine: str, amx: bool, avx512: bool, arm: bool, mkldnn: bool, native: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: mkldnn)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: arm)
    assert precision.has_native_bf16(CPU) == native
    assert not precision.has_native_bf16(torch.device("mps"))


def test_a_torch_without_these_questions_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not precision.has_native_bf16(CPU)


@pytest.mark.parametrize(
    ("operations", "native", "expected"), [(1e9, True, "bf16"), (1e9 - 1, True, "fp32"), (1e12, False, "fp32")]
)
def test_the_rule_for_bf16(monkeypatch: pytest.MonkeyPatch, operations: float, native: bool, expected: str) -> None:
    monkeypatch.setattr(precision, "has_native_bf16", lambda device: native)
    assert choose_precision(operations, CPU) == expected


class Mixing(nn.Module):
    """Takes no step in bf16: it writes outputs into a buffer of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = convolutional()
        self.register_buffer("seen", torch.zeros(1, 10))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x)
        self.seen.index_copy_(0, torch.tensor([0]), outputs[:1].detach())
        return outputs


def test_a_step_in_bf16_is_tried_without_random_draws() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert bf16_failure(convolutional(), IMAGES, CPU) is None
    failure = bf16_failure(Mixing(), IMAGES, CPU)
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert failure is not None
    assert "\n" not in failure


OPTIONS = {"dataset": "digits", "mega_batches": 2, "epochs": 2, "val_fraction": 0.1, "shots": 20}


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORGETKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("workdir")
def test_memory_formats_learn_the_same_within_rounding() -> None:
    left_open, contiguous, last = (
        forgetkit.run({**OPTIONS, "name": name, "memory_format": name})
        for name in ("auto", "contiguous", "channels-last")
    )
    assert left_open["config"]["memory_format"] == "channels-last"
    assert left_open["config"]["precision"] == "fp32"
    for one, other in zip(left_open["mega_batches"], last["mega_batches"], strict=True):
        assert {**one, "seconds": 0, "unlearn": 0} == {**other, "seconds": 0, "unlearn": 0}
    first, same = contiguous["mega_batches"][0], last["mega_batches"][0]
    assert first["unlearn"]["reset"] == same["unlearn"]["reset"]
    assert first["unlearn"]["threshold"] == pytest.approx(same["unlearn"]["threshold"], rel=1e-3)
    assert first["test_accuracy"] == pytest.approx(same["test_accuracy"], abs=0.02)


class Recorder:
    """Keeps events, and interrupts the run at its first checkpoint if ``stops``."""

    def __init__(self, *, stops: bool = False) -> None:
        self.events: list[Event] = []
        self.stops = stops

    def notify(self, event: Event) -> None:
        self.events.append(event)
        if self.stops and isinstance(event, Checkpointed):
            raise KeyboardInterrupt

    @property
    def resolved(self) -> list[OptionResolved]:
        return [event for event in self.events if isinstance(event, OptionResolved)]


@pytest.mark.slow
@pytest.mark.usefixtures("workdir", "native")
def test_a_resumed_run_keeps_the_precision_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Recorder(stops=True), Recorder()
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**OPTIONS, "name": "one", "checkpoint_epochs": 1}, observers=[first])
    ((option, value, reason),) = [(event.option, event.value, event.reason) for event in first.resolved]
    assert (option, value) == ("precision", "bf16")
    assert re.fullmatch(r"a batch takes \d\.\de\+0\d operations, and cpu multiplies bf16 natively", reason)
    assert json.loads(Path("runs/one/manifest.json").read_text())["config"]["precision"] == "bf16"
    monkeypatch.setattr(precision, "has_native_bf16", lambda device: False)
    result = forgetkit.run({"precision": "auto"}, resume="runs/one", observers=[second])  # as it was begun
    assert result["config"]["precision"] == "bf16"
    assert second.resolved == []
    straight = forgetkit.run({**OPTIONS, "name": "two", "precision": "bf16"})
    for one, other in zip(result["mega_batches"], straight["mega_batches"], strict=True):
        assert {**one, "seconds": 0, "unlearn": 0} == {**other, "seconds": 0, "unlearn": 0}


@dataclass(frozen=True)
class MixingBuilder:
    """Builds a network that takes no step in bf16."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        network = Mixing()
        network.layers = nn.Sequential(normalize, nn.Flatten(), nn.Linear(64, 10))
        return network


@pytest.mark.usefixtures("workdir", "native")
def test_a_network_that_bf16_does_not_suit_is_trained_in_fp32() -> None:
    recorder = Recorder()
    result = forgetkit.run({**OPTIONS, "epochs": 1, "model": MixingBuilder()}, observers=[recorder])
    assert result["config"]["precision"] == "fp32"
    assert [event.value for event in recorder.resolved] == ["fp32"]
    assert recorder.resolved[0].reason.startswith("a step in bf16 fails (")
