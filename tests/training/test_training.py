"""The schedule, the best epoch, the network's normalisation, evaluation, interventions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import forgetkit
from forgetkit import config
from forgetkit.contracts import DataSplit, EpochEnded, Event, Inputs, Intervention, InterventionContext
from forgetkit.data import SamplePool, epoch_batches
from forgetkit.errors import ComponentError, ConfigError, DivergedError
from forgetkit.registry import registry
from forgetkit.seeding import Seeds
from forgetkit.training import (
    EarlyStopping,
    Normalize,
    Schedule,
    Trainer,
    build_network,
    count_correct,
    measure_normalization,
)
from forgetkit.unlearning import InterventionRunner

SMALL = {"dataset": "synthetic:samples=80,test=20,classes=4", "model": "mlp:width=8", "mega_batches": 2, "threads": 1}


def test_the_schedule_is_torchs_multistep() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 40], 0.1)
    ours = Schedule("step", 0.1, 50, (20, 40), 0.1)
    for epoch in range(1, 51):
        assert ours.at(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()
    assert [ours.at(epoch) for epoch in (1, 20, 21, 40, 41)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("epochs", [1, 2, 7, 50])
def test_the_cosine_is_torchs_annealing(epochs: int) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    ours = Schedule("cosine", 0.3, epochs, (1,), 0.5)
    for epoch in range(1, epochs + 1):
        assert ours.at(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()
    assert ours.at(1) == 0.3
    if epochs % 2 == 0:
        assert ours.at(epochs // 2 + 1) == pytest.approx(0.15)  # half of it, halfway
    assert ours.at(epochs) > 0


def test_a_constant_rate_stays() -> None:
    assert {Schedule("constant", 0.07, 50, (20, 40), 0.1).at(epoch) for epoch in range(1, 51)} == {0.07}
    assert {Schedule("step", 0.07, 50).at(epoch) for epoch in range(1, 51)} == {0.07}


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_a_run_follows_its_schedule(tmp_path: Path, kind: str) -> None:
    rates = Rates([])
    forgetkit.run({**SMALL, "epochs": 4, "lr": 0.05, "schedule": kind, "out": str(tmp_path)}, observers=[rates])
    cosine = [0.05 / 2 * (1 + math.cos(math.pi * at / 4)) for at in range(4)]
    assert [rate for _, _, rate in rates.seen] == pytest.approx(2 * (cosine if kind == "cosine" else [0.05] * 4))


CURVES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5625, 0.625, 0.75, 1.0]), min_size=1, max_size=30)


def followed(best: EarlyStopping, curve: list[float]) -> tuple[nn.Module, int]:
    """Note one accuracy after another until it is exhausted; the weights tell their epoch."""
    model = nn.Linear(1, 1)
    for epoch, value in enumerate(curve, 1):
        nn.init.constant_(model.weight, epoch)
        best.update(epoch, value, model)
        if best.should_stop:
            return model, epoch
    return model, len(curve)


@given(curve=CURVES, patience=st.integers(0, 5), min_delta=st.sampled_from([0.0, 0.0625, 0.125, 0.5]))
def test_the_best_epoch_as_one_would_look_it_up(curve: list[float], patience: int, min_delta: float) -> None:
    record = [1]  # the epochs that beat the last of these by more than min_delta
    for epoch in range(2, len(curve) + 1):
        if curve[epoch - 1] - curve[record[-1] - 1] > min_delta:
            record.append(epoch)
    last = len(curve)
    for before, after in zip(record, [*record[1:], len(curve) + 1], strict=True):
        if patience and after - before > patience:
            last = before + patience
            break
    kept = max(epoch for epoch in record if epoch <= last)
    for carry in ("last", "best-val"):
        best = EarlyStopping(carry, patience, min_delta)
        model, stopped = followed(best, curve)
        assert (stopped, best.epoch) == (last, kept)
        assert best.restore_best(model, stopped) == (last if carry == "last" else kept)
        assert model.weight.item() == (last if carry == "last" else kept)


def test_of_equal_epochs_the_earliest_is_best() -> None:
    best = EarlyStopping("best-val", 0, 0.0)
    model, stopped = followed(best, [0.5, 0.75, 0.5, 0.75, 0.25])
    assert (stopped, best.restore_best(model, 5), model.weight.item()) == (5, 2, 2)


def test_of_an_accuracy_of_zero_there_is_a_best_epoch() -> None:
    best = EarlyStopping("best-val", 0, 0.9)
    model, _ = followed(best, [0.0, 0.0])
    assert best.restore_best(model, 2) == 1


def test_what_has_to_be_watched() -> None:
    watching = {
        (carry, p): EarlyStopping(carry, p, 0.0).needs_validation for carry in ("last", "best-val") for p in (0, 1)
    }
    assert watching == {("last", 0): False, ("last", 1): True, ("best-val", 0): True, ("best-val", 1): True}


def test_the_best_epoch_survives_a_checkpoint(tmp_path: Path) -> None:
    curve = [0.25, 0.75, 0.5, 0.5, 0.5]
    whole = EarlyStopping("best-val", 3, 0.0)
    expected = followed(whole, curve)[1]
    first = EarlyStopping("best-val", 3, 0.0)
    model, _ = followed(first, curve[:3])
    torch.save(first.state(), tmp_path / "best.pt")
    again = EarlyStopping("best-val", 3, 0.0)
    again.restore(torch.load(tmp_path / "best.pt", weights_only=True))
    for epoch in (4, 5):
        assert not again.should_stop
        again.update(epoch, curve[epoch - 1], model)
    assert again.should_stop
    assert expected == 5
    assert again.restore_best(model, 5) == 2
    assert model.weight.item() == 2


def test_the_weights_kept_are_a_copy() -> None:
    """Of statistics, too: what training writes afterwards does not reach them."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    best = EarlyStopping("best-val", 0, 0.0)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    best.update(1, 0.5, model)
    model(torch.randn(8, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    best.restore_best(model, 1)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@dataclass
class Rates:
    seen: list[tuple[int, int, float]]

    def notify(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self.seen.append((event.mega_batch, event.epoch, event.lr))


def test_the_rate_starts_anew_in_every_mega_batch(tmp_path: Path) -> None:
    rates = Rates([])
    options = {**SMALL, "epochs": 5, "lr": 0.05, "out": str(tmp_path)}
    result = forgetkit.run(options, observers=[rates])
    assert result["config"]["milestones"] == [2, 4]  # 40 % and 80 % of five epochs
    expected = [0.05, 0.05, 0.005, 0.005, 0.0005]
    assert [(t, e) for t, e, _ in rates.seen] == [(t, e) for t in (1, 2) for e in range(1, 6)]
    assert [rate for _, _, rate in rates.seen] == pytest.approx(expected * 2)


def test_normalisation_is_measured_on_what_it_is_given() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (3000, 3, 4, 4), dtype=np.uint8)
    images[:, 2] = 7  # a constant channel is not divided by zero
    inputs = measure_normalization(SamplePool.of(DataSplit(images, np.zeros(3000, np.int64)), torch.device("cpu")), 5)
    scaled = images.astype(np.float64) / 255
    assert inputs.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), rel=1e-5)
    assert inputs.std[:2] == pytest.approx(scaled.std((0, 2, 3)).tolist()[:2], rel=1e-5)
    assert inputs.std[2] == 1
    assert (inputs.shape, inputs.classes) == ((3, 4, 4), 5)
    normalized = Normalize(inputs)(torch.from_numpy(images).float() / 255)
    assert normalized.mean((0, 2, 3)).abs().max() < 1e-4
    assert normalized.std((0, 2, 3))[:2].numpy() == pytest.approx([1, 1], abs=1e-3)


def test_features_are_normalised_one_by_one() -> None:
    features = np.random.default_rng(2).normal(3, 5, (500, 6)).astype(np.float32)
    inputs = measure_normalization(SamplePool.of(DataSplit(features, np.zeros(500, np.int64)), torch.device("cpu")), 2)
    assert inputs.mean == pytest.approx(features.mean(0).tolist(), rel=1e-4)
    assert Normalize(inputs)(torch.from_numpy(features)).shape == (500, 6)


def test_evaluation_puts_the_mode_back_and_moves_no_statistic() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = SamplePool.of(DataSplit(np.ones((700, 3), np.float32), np.zeros(700, np.int64)), torch.device("cpu"))
    answers = {count_correct(model, data, Seeds(seed)) for seed in range(3)}
    assert len(answers) == 1  # no dropout
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Shape(nn.Module):
    """Says 1 where the first row of an image is black."""

    def forward(self, images: Tensor) -> Tensor:
        black = (images[:, :, 0] == 0).all(-1).all(-1).float()
        return torch.stack([1 - black, black], 1)


def test_evaluation_on_augmented_samples() -> None:
    """Each sample once, with crops that the seeds fix: those of an epoch's draws, in the order of the samples."""
    images = np.random.default_rng(0).integers(1, 256, (600, 1, 8, 8), dtype=np.uint8)
    data = SamplePool.of(DataSplit(images, np.ones(600, np.int64)), torch.device("cpu"))
    assert count_correct(Shape(), data, Seeds(0)) == (0, 600)  # nothing is cut: no row is black
    right, total = count_correct(Shape(), data, Seeds(0), augment="crop")
    assert total == 600
    assert 120 < right < 280  # one crop in three moves up
    assert count_correct(Shape(), data, Seeds(0), augment="crop") == (right, total)
    assert count_correct(Shape(), data, Seeds(1), augment="crop") != (right, total)
    drawn = sum(int((Shape()(x).argmax(1) == 1).sum()) for x, _ in epoch_batches(data, 64, "crop", Seeds(0)))
    assert drawn == right


class Noisy(nn.Module):
    """Draws in eval mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.rand(len(x), 2)


def test_stochastic_evaluation_draws_from_the_run_seeds() -> None:
    data = SamplePool.of(DataSplit(np.ones((900, 3), np.float32), np.zeros(900, np.int64)), torch.device("cpu"))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = count_correct(Noisy(), data, Seeds(0))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert count_correct(Noisy(), data, Seeds(0)) == first
    assert count_correct(Noisy(), data, Seeds(1)) != first


@dataclass(frozen=True)
class Wrong:
    """Builds whatever it is told to."""

    what: str = "shape"

    def build(self, inputs: Inputs, normalize: nn.Module) -> nn.Module:
        if self.what == "type":
            return "a network"  # type: ignore[return-value]
        return nn.Sequential(nn.Flatten(), nn.Linear(4 if self.what == "input" else 12, 7))


@pytest.mark.parametrize(
    ("what", "error", "complaint"),
    [
        ("type", ComponentError, "built str, not a torch.nn.Module"),
        ("shape", ConfigError, r"outputs of shape \(7,\).*5 classes need \(5,\)"),
        ("input", ConfigError, r"cannot take samples of shape \(3, 2, 2\)"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(what: str, error: type[Exception], complaint: str) -> None:
    inputs = Inputs((3, 2, 2), 5, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(error, match=complaint):
        build_network(Wrong(what), inputs, Seeds(0))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"1, epoch 2, step 1 of 1, at learning rate 1e\+30: start a new run"):
        forgetkit.run({**SMALL, "epochs": 9, "lr": 1e30, "milestones": (), "out": str(tmp_path)})


def test_a_single_sample_under_batch_normalisation() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), 8, "none", NOBODY)
    one = SamplePool.of(DataSplit(np.ones((1, 4), np.float32), np.zeros(1, np.int64)), torch.device("cpu"))
    with pytest.raises(ConfigError, match="a batch of a single sample: use fewer --mega-batches"):
        trainer.epoch(one, 1, 1, 0.1, Seeds(0))


NOBODY = InterventionRunner(nn.Identity(), None, (), Seeds(0))
CALLS: list[tuple[str, int, int, int]] = []


@dataclass(frozen=True)
class PullBack(Intervention):
    """A penalty on the distance from the weights that a mega-batch began with."""

    strength: float = 0.5

    def begin(self, moment: InterventionContext) -> None:
        CALLS.append(("begin", moment.mega_batch, moment.epoch, moment.step))
        for name, p in moment.model.named_parameters():
            moment.state[name] = p.detach().clone()

    def loss(self, moment: InterventionContext) -> Tensor:
        CALLS.append(("loss", moment.mega_batch, moment.epoch, moment.step))
        return self.strength * sum(
            (p - moment.state[name]).square().sum() for name, p in moment.model.named_parameters()
        )

    def after_step(self, moment: InterventionContext) -> None:
        CALLS.append(("step", moment.mega_batch, moment.epoch, moment.step))

    def after_epoch(self, moment: InterventionContext) -> None:
        CALLS.append(("epoch", moment.mega_batch, moment.epoch, moment.step))


def test_an_intervention_acts_at_its_moments_and_on_the_loss() -> None:
    CALLS.clear()
    data = SamplePool.of(DataSplit(np.eye(4, dtype=np.float32), np.arange(4)), torch.device("cpu"))
    moved = []
    for interventions in ((), (PullBack(),), (PullBack(50.0),)):
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        start = model.weight.detach().clone()
        trainer = Trainer(
            model,
            torch.optim.SGD(model.parameters(), lr=0.01),
            2,
            "none",
            InterventionRunner(model, None, interventions, Seeds(0)),
        )
        trainer.begin(data, 3, Seeds(0))
        for epoch in (1, 2):
            trainer.epoch(data, 3, epoch, 0.01, Seeds(0))
        moved.append(float((model.weight.detach() - start).norm()))
        if interventions == (PullBack(),):
            steps = [(k, 3, e, s) for e in (1, 2) for s in (0, 1) for k in ("loss", "step")]
            expected = [("begin", 3, 1, 0), *steps[:4], ("epoch", 3, 1, 2), *steps[4:], ("epoch", 3, 2, 2)]
            assert expected == CALLS
    assert moved[0] > moved[1] > moved[2] > 0


def test_dropout_follows_the_seed_and_keeps_global_rng_state() -> None:
    data = SamplePool.of(
        DataSplit(np.random.default_rng(0).random((40, 6), np.float32), np.arange(40) % 3), torch.device("cpu")
    )

    def trained(seed: int) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))
        state = torch.get_rng_state()
        trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), 8, "none", NOBODY)
        trainer.epoch(data, 1, 1, 0.1, Seeds(seed))
        assert torch.equal(state, torch.get_rng_state())
        return model[0].weight.detach().clone()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_builders_and_their_networks_agree_on_a_seed() -> None:
    inputs = Inputs((1, 8, 8), 10, (0.3,), (0.3,))
    builder = registry.load().make("models", "convnet")[1]
    nets = [build_network(builder, inputs, Seeds(seed)).state_dict() for seed in (0, 0, 1)]
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in ((nets[0], nets[1]), (nets[0], nets[2]))]
    assert same == [True, False]


@pytest.mark.parametrize("given", [{}, {"method": "cold"}, {"importance": "magnitude"}, {"reinit": "masked:0.5"}])
def test_a_resolved_configuration_means_the_same_run(given: dict[str, str]) -> None:
    offers = registry.load()
    plan = config.resolve(given, offers)
    again = config.resolve(plan.config.model_dump(mode="json"), offers)
    assert again.config == plan.config
    assert (again.digest, again.method) == (plan.digest, plan.method)


def test_objects_and_specs_may_be_mixed(tmp_path: Path) -> None:
    CALLS.clear()
    options = {**SMALL, "epochs": 1, "interventions": [PullBack(0.1)], "out": str(tmp_path), "metrics": "cer"}
    result = forgetkit.run(options)
    assert result["config"]["interventions"] == [f"{PullBack.__module__}.PullBack:strength=0.1"]
    assert {call[0] for call in CALLS} == {"begin", "loss", "step", "epoch"}
