"""Numbers that go wrong: a run stops and says where, or leaves the step out; what is not finite is never written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import forgetkit
from forgetkit import training
from forgetkit.contracts import EpochEnded, Intervention, MegaBatchResult
from forgetkit.data import SamplePool
from forgetkit.data.batches import epoch_batches
from forgetkit.display import run_tables
from forgetkit.errors import ComponentError, DivergedError
from forgetkit.seeding import Seeds
from forgetkit.unlearning import InterventionRunner

OPTIONS = {
    "dataset": "synthetic:samples=60,test=20,classes=3,size=4,channels=1",
    "mega_batches": 2,
    "epochs": 3,
    "batch_size": 8,
    "threads": 1,
    "checkpoint_epochs": 1,
}  # 27 training samples, then 54: 4 steps in an epoch of the first mega-batch, 7 in one of the second


class Spoilt(nn.Module):
    """Gives NaN in the training steps whose numbers, over all, are given."""

    def __init__(self, width, classes, wrong, value):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(width, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, classes)
        )
        self.wrong, self.value, self.calls = wrong, value, 0

    def forward(self, inputs):
        if self.training:
            self.calls += 1
            if self.calls in self.wrong:
                inputs = inputs * self.value
        return self.body(inputs)


@dataclass(frozen=True)
class Builder:
    """A network that is spoilt in some steps."""

    wrong: tuple[int, ...] = ()
    value: float = float("nan")

    def build(self, inputs, normalize):
        return Spoilt(16, inputs.classes, self.wrong, self.value)


class Ears:
    def __init__(self):
        self.epochs = []

    def notify(self, event):
        if isinstance(event, EpochEnded):
            self.epochs.append(event)


@pytest.mark.parametrize(
    ("call", "place"),
    [(2, "mega-batch 1, epoch 1, step 2 of 4"), (11, "mega-batch 1, epoch 3, step 3 of 4"),
     (12 + 9, "mega-batch 2, epoch 2, step 2 of 7")],
)  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_run_stops_and_names_the_step(workdir, call, place, value):
    with pytest.raises(DivergedError) as stopped:
        forgetkit.run({**OPTIONS, "model": Builder((call,), value), "name": "r"})
    good = sorted((workdir / "runs" / "r" / "checkpoints").glob("resume-*-*.pt"))
    last = f"the last good state is runs/r/checkpoints/{good[-1].name}" if good else "no state was written before"
    assert stopped.value.__notes__ == [last]
    assert re.fullmatch(
        rf"the loss is nan in {place}, at learning rate 0\.[01]+: start a new run with a smaller --lr, or leave such "
        "steps out by --on-nan skip",
        str(stopped.value),
    ), stopped.value
    assert "\n" not in str(stopped.value)
    assert bool(good) == (call > 2)


def test_nan_before_training_is_distinguished_from_divergence(workdir):
    with pytest.raises(DivergedError, match="the first 8 samples is NaN or infinite before anything was learned: look"):
        forgetkit.run({**OPTIONS, "model": Builder((1,)), "name": "r"})
    assert not (workdir / "runs").exists()


def test_a_long_epoch_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("forgetkit.training.trainer._CHECK_EVERY", 3)
    steps = []
    trainer = trainer_of(Spoilt(16, 3, (5,), float("nan")))
    data, progress = pool(80), training.EpochProgress.start(torch.device("cpu"))
    with pytest.raises(DivergedError, match="step 5 of 10"):
        steps.extend(progress.steps for _ in trainer.steps(data, 1, 1, 0.1, Seeds(0), progress))
    assert steps[-1] == 5  # the look comes with step 6, before it is told of


def trainer_of(model, **options):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, foreach=True)
    return training.Trainer(model, optimizer, 8, "none", InterventionRunner(model, optimizer, [], Seeds(0)), **options)


def pool(samples):
    rng = torch.Generator().manual_seed(0)
    return SamplePool(torch.randn(samples, 16, generator=rng), torch.randint(3, (samples,), generator=rng))


@pytest.mark.parametrize("where", ["output", "gradient"])
def test_steps_that_are_left_out_are_as_if_they_had_not_been(where):
    """Against a plain loop that leaves the same batches out."""
    wrong = {2, 5, 6}

    class Steps(nn.Module):
        """The same network, in which some steps go wrong in the one place or the other."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.body = nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
            self.calls = 0

        def forward(self, inputs):
            self.calls += 1
            outputs = self.body(inputs)
            if self.calls in wrong and where == "output":
                return outputs * float("nan")
            if self.calls in wrong and where == "gradient":
                outputs.register_hook(lambda grad: grad * float("nan"))
            return outputs

    model, plain = Steps(), Steps()
    data, seeds = pool(60), Seeds(4)
    ended = trainer_of(model, skips=True).epoch(data, 1, 1, 0.1, seeds)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, 0.9, foreach=True)
    losses, counted, right = [], 0, 0
    for number, (inputs, labels) in enumerate(epoch_batches(data, 8, "none", seeds.within(1, 1)), 1):
        if number in wrong:
            continue
        outputs = plain.body(inputs)
        loss = nn.functional.cross_entropy(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()) * len(labels))
        counted += len(labels)
        right += int((outputs.argmax(-1) == labels).sum())
    for mine, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert ended.skipped == 3
    assert ended.samples == 60
    assert ended.loss == pytest.approx(sum(losses) / counted, rel=1e-5)
    assert ended.accuracy == right / counted


@pytest.mark.slow
def test_nothing_is_left_out_where_nothing_is_wrong(workdir, substance, digests):
    results = {}
    for how in ("stop", "skip"):
        result = substance(forgetkit.run({**OPTIONS, "model": "convnet:width=4", "name": how, "on_nan": how}))
        assert result["config"].pop("on_nan") == how
        result.pop("overrides")
        results[how] = result, list(digests(workdir / "runs" / how).values())
    assert results["stop"] == results["skip"]


def test_what_was_left_out_is_told_and_counted(workdir, cli):
    ears = Ears()
    result = forgetkit.run(
        {**OPTIONS, "model": Builder((2, 3, 10, 14)), "on_nan": "skip", "name": "r"}, observers=[ears]
    )
    assert [row["skipped_steps"] for row in result["mega_batches"]] == [3, 1]
    assert result["skipped_steps"] == 4
    assert ", 3 steps left out" in run_tables.row_line(MegaBatchResult(**result["mega_batches"][0]))
    assert any(text.startswith("4 steps were skipped") for text in run_tables.totals(result))
    assert [event.skipped for event in ears.epochs] == [2, 0, 1, 1, 0, 0]
    for name in ("mega-batch-001", "mega-batch-002"):
        state = torch.load(workdir / "runs" / "r" / "checkpoints" / f"{name}.pt", weights_only=True)
        assert all(bool(tensor.isfinite().all()) for tensor in state["model"].values())


def test_where_no_step_of_an_epoch_can_be_made_the_run_stops(workdir):
    with pytest.raises(DivergedError, match=r"no step could be made in mega-batch 1, epoch 2, at learning rate 0\.01"):
        forgetkit.run({**OPTIONS, "model": Builder((5, 6, 7, 8)), "on_nan": "skip"})


@dataclass(frozen=True)
class Break(Intervention):
    """Puts NaN into a weight after an epoch: too late for any loss to tell."""

    epoch: int = 1

    @torch.no_grad()
    def after_epoch(self, moment):
        if (moment.mega_batch, moment.epoch) == (1, self.epoch):
            next(iter(moment.model.parameters())).view(-1)[0] = float("nan")


@pytest.mark.parametrize("epoch", [2, 3])
def test_no_state_holds_weights_that_are_not_finite(workdir, epoch):
    where = rf"in mega-batch 1, after epoch {epoch}, at learning rate 0\.\d+: look at Break"
    with pytest.raises(DivergedError, match=rf"'.*' holds NaN or infinity {where}") as e:
        forgetkit.run({**OPTIONS, "model": "mlp:width=4", "interventions": [Break(epoch)], "name": "r"})
    good = sorted((workdir / "runs" / "r" / "checkpoints").glob("resume-*-*.pt"))
    assert e.value.__notes__[0].endswith(good[-1].name)
    for file in good:
        state = torch.load(file, weights_only=True)
        assert all(bool(tensor.isfinite().all()) for tensor in state["model"].values())


@dataclass(frozen=True)
class Swollen(Intervention):
    """Puts infinity where no loss can tell: into a running statistic."""

    @torch.no_grad()
    def after_epoch(self, moment):
        for module in moment.model.modules():
            if isinstance(module, nn.BatchNorm1d) and moment.epoch == 2:
                module.running_var[0] = float("inf")


def test_non_finite_running_statistics_count_as_divergence(workdir):
    with pytest.raises(DivergedError, match=r"'.*running_var' holds NaN or infinity in mega-batch 1, after epoch 2"):
        forgetkit.run({**OPTIONS, "model": Builder(), "interventions": [Swollen()]})


@dataclass(frozen=True)
class Odd:
    """Gives NaN for a score after the second mega-batch."""

    calls: list[int] = field(default_factory=list, compare=False, repr=False)

    def score(self, probe):
        self.calls.append(1)
        return {name: p.abs() * (float("nan") if len(self.calls) == 3 else 1) for name, p in probe.targets.items()}


def test_non_finite_score_error_names_the_mega_batch(workdir):
    with pytest.raises(ComponentError) as stopped:  # the first call tries it out
        forgetkit.run({**OPTIONS, "mega_batches": 3, "model": "mlp:width=4", "importance": Odd(), "name": "r"})
    assert re.match(r"after mega-batch 2: Odd: the score of '.*' holds NaN or infinity", str(stopped.value))
    assert stopped.value.__notes__ == ["the last good state is runs/r/checkpoints/resume-002-0002.pt"]


def test_the_command_says_it_in_a_line(cli, workdir):
    answer = cli("run", *(f"--{k.replace('_', '-')}={v}" for k, v in OPTIONS.items()), "--lr", 1e30, "--quiet")
    assert (answer.status, answer.out, answer.err.count("\n")) == (1, "", 1)
    assert answer.err.startswith("forgetkit: ")
    assert "the last good state is" in answer.err or "no state was written before" in answer.err
