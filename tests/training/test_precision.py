"""What is chosen where precision and memory format are left open, and that neither changes what is learned."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import forgetkit
from forgetkit.contracts import Checkpointed, Event, Inputs, OptionResolved
from forgetkit.errors import ConfigError
from forgetkit.training import PrecisionTrial, precision
from forgetkit.training.precision import PrecisionTimings, choose_memory_format

CPU = torch.device("cpu")
IMAGES = Inputs((3, 16, 16), 10, (0.5,) * 3, (0.3,) * 3)
FEATURES = Inputs((7,), 10, (0.5,) * 7, (0.3,) * 7)

X86 = "processor\t: 0\nmodel name\t: Some Processor\nflags\t\t: fpu avx512f {} sse2\n"


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def trial(tmp_path: Path, model: nn.Module | None = None, batch_size: int = 8) -> PrecisionTrial:
    model = convolutional() if model is None else model
    return PrecisionTrial(model, IMAGES, batch_size, "contiguous", CPU, "convnet", tmp_path / "trials")


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A processor with bf16, by what the system says of it."""
    said = tmp_path / "cpuinfo"
    said.write_text(X86.format("avx512_bf16"))
    monkeypatch.setattr(precision, "_PROCESSOR", said)
    return said


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_WORTH_A_TRIAL", 1.0)


def takes(monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float) -> list[int]:
    """The clock says so of any trial; how often one was held."""
    held: list[int] = []

    def timed(self: PrecisionTrial, model: nn.Module, operations: float) -> PrecisionTimings:
        held.append(1)
        return PrecisionTimings(fp32, bf16)

    monkeypatch.setattr(PrecisionTrial, "_timed", timed)
    return held


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
model = training.network(registry.load().make("models", "resnet18:width=8")[1], inputs, Seeds(0))
chosen = training.memory_format("auto", model, inputs, cpu) if sys.argv[1] == "auto" else sys.argv[1]
model = training.arranged(model, chosen, cpu)
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
    ("said", "native"),
    [
        (X86.format("avx512_bf16"), True),
        (X86.format("amx_bf16"), True),
        (X86.format("avx2"), False),
        (X86.format("avx512_bf16x"), False),
        ("model name\t: bf16 2000\nflags\t: avx2\n", False),
        ("Features\t: fp asimd bf16 sve\n", True),
        ("", False),
    ],
)
def test_whether_a_processor_has_bf16(processor: Path, said: str, native: bool) -> None:
    processor.write_text(said)
    assert precision.native_bf16(CPU) == native
    assert not precision.native_bf16(torch.device("mps"))


def test_without_bf16_in_hardware_nothing_is_tried(processor: Path, tmp_path: Path) -> None:
    processor.unlink()
    assert trial(tmp_path).verdict() == ("fp32", None)
    assert precision.processor(CPU) == ""


@pytest.mark.usefixtures("processor")
def test_a_small_network_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = takes(monkeypatch, 2.0, 1.0)
    assert trial(tmp_path).verdict() == ("fp32", None)
    assert held == []
    # 14 × 14 places, 3 × 9 factors, 4 channels, and ten classes of four: twice that for each sample of a batch.
    operations = 2 * (14 * 14 * 27 * 4 + 40)
    samples = int(precision._WORTH_A_TRIAL // operations)
    assert trial(tmp_path, batch_size=samples).verdict() == ("fp32", None)
    assert trial(tmp_path, batch_size=samples + 1).verdict()[0] == "bf16"
    assert held == [1]


@pytest.mark.usefixtures("processor", "worth_it")
@pytest.mark.parametrize(("bf16", "expected"), [(0.79, "bf16"), (0.81, "fp32"), (1.5, "fp32")])
def test_bf16_has_to_be_faster_by_a_quarter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: float, expected: str
) -> None:
    takes(monkeypatch, 1.0, bf16)
    reason = f"a step in bf16 took {bf16:.2f} times what it took in fp32, in a short trial"
    assert trial(tmp_path).verdict() == (expected, reason)


@pytest.mark.usefixtures("processor", "worth_it")
def test_what_was_found_holds_the_next_time_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = takes(monkeypatch, 2.0, 1.0)
    first = trial(tmp_path).verdict()
    takes(monkeypatch, 1.0, 2.0)
    again = trial(tmp_path).verdict()
    assert again[0] == first[0]
    (note,) = (tmp_path / "trials").glob("*.json")
    assert str(again[1]).endswith(f"in an earlier trial; to hold another, delete {note}")
    assert held == [1]
    assert trial(tmp_path, batch_size=9).verdict()[0] == "fp32"  # another question
    note.write_text("{")
    assert trial(tmp_path).verdict()[0] == "fp32"  # a damaged note is no answer
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [f"{note} is damaged"]


@pytest.mark.usefixtures("processor", "worth_it")
def test_where_no_note_can_be_written_the_trial_counts_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(monkeypatch, 2.0, 1.0)
    (tmp_path / "trials").write_text("in the way")
    assert trial(tmp_path).verdict()[0] == "bf16"


@pytest.mark.usefixtures("processor", "worth_it")
def test_of_two_trials_at_once_one_is_held_and_counts_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([(2.0, 1.0), (1.0, 2.0)])
    begun = threading.Barrier(2)

    def timed(self: PrecisionTrial, model: nn.Module, operations: float) -> PrecisionTimings:
        time.sleep(0.2)  # the other one has come by then
        return PrecisionTimings(*next(clock))

    def asked(one: PrecisionTrial) -> PrecisionTimings:
        begun.wait()
        return one._found(convolutional(), 1e9)[0]

    monkeypatch.setattr(PrecisionTrial, "_timed", timed)
    with ThreadPoolExecutor(2) as both:
        assert [*both.map(asked, (trial(tmp_path), trial(tmp_path)))] == [PrecisionTimings(2.0, 1.0)] * 2


@pytest.mark.usefixtures("processor", "worth_it")
def test_a_network_that_bf16_does_not_suit_stays_at_fp32(tmp_path: Path) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = convolutional()
            self.register_buffer("seen", torch.zeros(1, 10))

        def forward(self, x: Tensor) -> Tensor:
            outputs: Tensor = self.layers(x)
            self.seen.index_copy_(0, torch.tensor([0]), outputs[:1].detach())  # of the same dtype, or not at all
            return outputs

    precision, reason = trial(tmp_path, Mixing()).verdict()
    assert precision == "fp32"
    assert reason is not None
    assert reason.startswith("a step in bf16 could not be tried (")


@pytest.mark.usefixtures("processor", "worth_it")
def test_a_real_trial_times_both_and_draws_from_nobody(tmp_path: Path) -> None:
    one = trial(tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    precision, reason = one.verdict()
    assert precision in ("fp32", "bf16")
    assert reason is not None
    assert torch.equal(torch.get_rng_state(), before)
    (note,) = (tmp_path / "trials").glob("*.json")
    times = json.loads(note.read_text())
    assert times["fp32"] > 0 < times["bf16"]
    assert f"took {times['bf16'] / times['fp32']:.2f} times" in reason


OPTIONS = {"dataset": "digits", "mega_batches": 2, "epochs": 2, "val_fraction": 0.1, "shots": 20}


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORGETKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


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


@pytest.mark.usefixtures("workdir", "processor", "worth_it")
def test_a_resumed_run_keeps_what_was_settled_and_says_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Event] = []

    class Impatient:
        def notify(self, event: Event) -> None:
            heard.append(event)
            if isinstance(event, Checkpointed):
                raise KeyboardInterrupt

    takes(monkeypatch, 2.0, 1.0)
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**OPTIONS, "name": "one", "checkpoint_epochs": 1}, observers=[Impatient()])
    assert [e for e in heard if isinstance(e, OptionResolved)] == [
        OptionResolved("precision", "bf16", "a step in bf16 took 0.50 times what it took in fp32, in a short trial")
    ]
    takes(monkeypatch, 1.0, 2.0)
    for note in Path("cache/trials").glob("*.json"):
        note.unlink()
    heard.clear()

    class Silent:
        def notify(self, event: Event) -> None:
            heard.append(event)

    result = forgetkit.run({"precision": "auto"}, resume="runs/one", observers=[Silent()])  # as it was begun
    assert result["config"]["precision"] == "bf16"
    assert not [e for e in heard if isinstance(e, OptionResolved)]
    straight = forgetkit.run({**OPTIONS, "name": "two", "precision": "bf16"})
    for one, other in zip(result["mega_batches"], straight["mega_batches"], strict=True):
        assert {**one, "seconds": 0, "unlearn": 0} == {**other, "seconds": 0, "unlearn": 0}
