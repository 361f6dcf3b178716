"""``--samples``: exactly that many in each mega-batch, whatever there is to choose from; the rate by their share."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import forgetkit
from forgetkit import config
from forgetkit.contracts import EpochEnded, Event, Inputs, Intervention, InterventionContext, StepProgress
from forgetkit.display.console import Console
from forgetkit.display.display import LiveDisplay
from forgetkit.display.run_display import RunDisplay
from forgetkit.errors import ConfigError
from forgetkit.registry import registry
from forgetkit.training import Schedule, epoch_sizes, share_milestones

SMALL = {
    "dataset": "synthetic:samples=90,test=20,classes=3,size=4,channels=1,noise=2.0",
    "model": "mlp:width=8",
    "mega_batches": 3,
    "batch_size": 8,
    "threads": 1,
}  # 27, 54 and 81 samples to train on with full replay


@given(pool=st.integers(1, 50), samples=st.integers(1, 400))
def test_a_budget_is_cut_into_epochs(pool: int, samples: int) -> None:
    counted = epoch_sizes(pool, 7, samples)
    sizes = list(counted)
    assert sum(sizes) == samples == counted.samples
    assert [counted.of(epoch) for epoch in range(1, counted.count + 1)] == sizes
    assert [counted.before(epoch) for epoch in range(1, counted.count + 2)] == [0, *itertools.accumulate(sizes)]
    assert len(sizes) == math.ceil(samples / pool)
    assert set(sizes[:-2]) <= {pool}
    assert all(1 <= size <= pool for size in sizes)
    if samples > 1 and pool > 2:
        assert min(sizes) > 1, "batch normalisation cannot train on one"
    assert list(epoch_sizes(pool, 7, None)) == [pool] * 7


def test_epochs_without_end_take_no_memory() -> None:
    assert epoch_sizes(60, 10**30, None).samples == 60 * 10**30
    assert epoch_sizes(60, 1, 10**30 + 1).count == -(-(10**30) // 60)


@given(done=st.integers(0, 1000), samples=st.integers(1, 1000), gamma=st.sampled_from([0.1, 0.5]))
def test_the_rate_by_the_share_that_is_done(done: int, samples: int, gamma: float) -> None:
    step = Schedule("step", 0.3, samples, share_milestones(samples), gamma).after(done)
    assert step == 0.3 * gamma ** ((10 * done >= 4 * samples) + (10 * done >= 8 * samples))
    cosine = Schedule("cosine", 0.3, samples).after(done)
    assert cosine == pytest.approx(0.15 * (1 + math.cos(math.pi * done / samples)), abs=1e-15)


@dataclass(eq=False)
class Heard:
    """All that a run says."""

    events: list[Event] = field(default_factory=list)

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def epochs(self) -> list[tuple[int, int, int, int]]:
        found = [event for event in self.events if isinstance(event, EpochEnded)]
        return [(event.mega_batch, event.epoch, event.epochs, event.samples) for event in found]


STEPS: list[tuple[int, int, float]] = []


@dataclass(frozen=True)
class Noting(Intervention):
    """Notes the mega-batch, the size and the rate of each step."""

    def after_step(self, moment: InterventionContext) -> None:
        assert moment.inputs is not None
        STEPS.append((moment.mega_batch, len(moment.inputs), moment.optimizer.param_groups[0]["lr"]))


def rates(samples: int, rate: Callable[[float], float], steps: list[tuple[int, int, float]]) -> list[float]:
    """What a closed form gives for each step, by the share of the budget done before it."""
    found, done, current = [], 0, 0
    for mega_batch, size, _ in steps:
        done = done if mega_batch == current else 0
        current = mega_batch
        found.append(rate(done / samples))
        done += size
    return found


RATES: dict[str, Callable[[float], float]] = {
    "step": lambda share: 0.2 * 0.5 ** ((share >= 0.4) + (share >= 0.8)),
    "cosine": lambda share: 0.1 * (1 + math.cos(math.pi * share)),
    "constant": lambda share: 0.2,
}


@pytest.mark.slow
@pytest.mark.parametrize("schedule", RATES)
@pytest.mark.parametrize("samples", [5, 70, 109])
def test_sample_budget_is_exact_and_drives_the_learning_rate(tmp_path: Path, samples: int, schedule: str) -> None:
    STEPS.clear()
    heard = Heard()
    options: dict[str, Any] = {"samples": samples, "schedule": schedule, "lr": 0.2, "interventions": [Noting()]}
    options |= {"gamma": 0.5} if schedule == "step" else {}
    result = forgetkit.run({**SMALL, **options, "out": tmp_path}, observers=[heard])
    steps = STEPS[1:]  # the first was tried out
    pools = [27, 54, 81]
    rows = result["mega_batches"]
    assert [row["train_samples"] for row in rows] == pools
    assert [row["samples_seen"] for row in rows] == [samples] * 3
    assert [row["epochs"] for row in rows] == [row["carried_epoch"] for row in rows]
    assert [row["epochs"] for row in rows] == [math.ceil(samples / pool) for pool in pools]
    assert [row["forward_passes"] - (row["unlearn"] or {"forward_passes": 0})["forward_passes"] for row in rows] == [
        samples
    ] * 3
    expected = [
        (index, epoch, sizes.count, size)
        for index, sizes in enumerate((epoch_sizes(pool, 1, samples) for pool in pools), 1)
        for epoch, size in enumerate(sizes, 1)
    ]
    assert heard.epochs() == expected
    assert [sum(size for t, size, _ in steps if t == index) for index in (1, 2, 3)] == [samples] * 3
    assert all(2 <= size <= 9 for _, size, _ in steps)
    assert [rate for _, _, rate in steps] == pytest.approx(rates(samples, RATES[schedule], steps), rel=1e-9)


def models(run: dict[str, Any]) -> list[str]:
    files = sorted((Path(run["directory"]) / "checkpoints").glob("mega-batch-*.pt"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.mark.slow
def test_whole_epochs_of_samples_are_epochs(tmp_path: Path) -> None:
    """At a rate that stays, to the bit; with the same order and crops of images."""
    images = {"dataset": "synthetic:samples=90,test=20,classes=3,size=8,channels=1", "augment": "crop-flip"}
    common = {**SMALL, **images, "replay": "none", "out": tmp_path, "lr": 0.05}
    by_epochs = forgetkit.run({**common, "schedule": "constant", "epochs": 2})
    by_samples = forgetkit.run({**common, "milestones": "none", "samples": 54})
    assert models(by_samples) == models(by_epochs)
    assert models(forgetkit.run({**common, "milestones": "none", "samples": 53})) != models(by_epochs)


@dataclass(frozen=True)
class Cut:
    """Interrupts after an epoch."""

    mega_batch: int
    epoch: int

    def notify(self, event: Event) -> None:
        if isinstance(event, EpochEnded) and (event.mega_batch, event.epoch) == (self.mega_batch, self.epoch):
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {"carry": "best-val"}], ids=str)
@pytest.mark.parametrize("cut", [Cut(1, 3), Cut(2, 2)], ids=str)  # at the end of the cut epoch, and of one before
def test_an_interrupted_budget_ends_in_the_same_weights(
    tmp_path: Path, options: dict[str, str], cut: Cut, substance: Callable[..., Any]
) -> None:
    common = {**SMALL, **options, "samples": 75, "out": tmp_path, "checkpoint_epochs": 1}
    whole = forgetkit.run({**common, "name": "whole"})
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**common, "name": "cut"}, observers=[cut])
    heard = Heard()
    resumed = forgetkit.run(resume=tmp_path / "cut", observers=[heard])
    assert models(resumed) == models(whole)
    assert substance(resumed) == substance(whole)
    started = next(event for event in heard.events if hasattr(event, "done_samples"))
    seen = sum(samples for *_, samples in heard.epochs())
    assert started.done * 75 + started.done_samples + seen == 3 * 75


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"epochs": 3}, "--epochs 3 would be ignored, since --samples says how long a mega-batch is trained"),
        ({"milestones": "2,3"}, "--milestones 2,3 counts epochs, and with --samples the rate falls"),
        ({"milestones": "none", "gamma": 0.5}, "--gamma 0.5 would be ignored, since there are no milestones"),
        ({"samples": 0}, "--samples 0: "),
        ({"samples": "many"}, "--samples many: "),
    ],
)
def test_what_contradicts_a_budget_is_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.resolve({"samples": 100, **given}, registry.load(entry_points=False))
    assert str(refused.value).startswith(complaint)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("given", [{"gamma": 0.5}, {"patience": 60}, {"carry": "best-val"}, {"milestones": "none"}])
def test_what_acts_with_a_budget_is_taken(given: dict[str, Any]) -> None:
    offers = registry.load(entry_points=False)
    plan = config.resolve({"samples": "100", **given}, offers)
    assert plan.overrides["samples"] == {"value": 100, "preset": None}
    again = config.resolve(plan.config.model_dump(mode="json"), offers)
    assert (again.config, again.digest) == (plan.config, plan.digest)
    assert plan.digest != config.resolve({}, offers).digest


def test_patience_counts_epochs_of_a_budget(tmp_path: Path) -> None:
    options = {"samples": 27 * 20, "patience": 2, "lr": 1e-9, "replay": "none", "milestones": "none"}
    result = forgetkit.run({**SMALL, **options, "out": tmp_path})
    assert [row["epochs"] for row in result["mega_batches"]] == [3, 3, 3]
    assert [row["samples_seen"] for row in result["mega_batches"]] == [3 * 27] * 3


@pytest.mark.slow
def test_a_rehearsal_and_a_screen_know_the_budget(cli: Any) -> None:
    words = ["run", *(f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()), "--samples", 70]
    assert cli(*words, "--dry-run", "--json").json["samples_to_be_seen"] == 210
    planned = cli(*words, "--dry-run").out
    assert "--samples" in planned
    assert "--epochs" not in planned
    assert "3 mega-batches of 70 samples" in cli(*words).out.splitlines()[0]


def test_bars_move_forward_to_their_ends(tmp_path: Path) -> None:
    for options in ({"samples": 70}, {"epochs": 2}):
        heard = Heard()
        forgetkit.run({**SMALL, **options, "out": tmp_path}, observers=[heard])
        console = Console()
        console.file = io.StringIO()
        view, done = RunDisplay(LiveDisplay(console)), 0
        seen = [70] * 3 if "samples" in options else [54, 108, 162]
        for event in heard.events:
            if isinstance(event, EpochEnded):
                view.notify(StepProgress(event.mega_batch, event.epoch, 1, 2))
                assert view._whole.share == pytest.approx((done + event.samples / 2) / sum(seen))
                done += event.samples
            view.notify(event)
            assert view._whole is None or view._whole.share == pytest.approx(done / sum(seen))
        assert [bar.share for bar in (*view._bars.values(), view._whole)] == [1, 1, 1, 1]


@dataclass(frozen=True)
class Normed:
    """A network that cannot train on one sample."""

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        first = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(inputs.shape), 4), nn.BatchNorm1d(4))
        return nn.Sequential(normalize, first, nn.Linear(4, inputs.classes))


def test_batch_norm_never_gets_a_lone_sample_if_there_are_more(tmp_path: Path) -> None:
    options = {**SMALL, "model": Normed(), "out": tmp_path, "mega_batches": 1, "val_fraction": 0}
    assert forgetkit.run({**options, "samples": 91})["samples_seen"] == 91
    with pytest.raises(ConfigError, match=r"batch of a single sample.*--samples"):
        forgetkit.run({**options, "samples": 1})
