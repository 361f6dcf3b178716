"""The schedule, the network's normalisation, evaluation, interventions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import forgetkit
from forgetkit import config, registry
from forgetkit.contracts import EpochEnded, Event, Inputs, Intervention, Moment, Part
from forgetkit.errors import ComponentError, ConfigError, DivergedError
from forgetkit.learn import Normalize, Trainer, accuracy, lr_at, measured, network
from forgetkit.seeding import Seeds
from forgetkit.stream import Pool

SMALL = {"dataset": "synthetic:samples=80,test=20,classes=4", "model": "mlp:width=8", "mega_batches": 2, "threads": 1}


def test_the_schedule_is_torchs_multistep() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 40], 0.1)
    for epoch in range(1, 51):
        assert lr_at(epoch, 0.1, (20, 40), 0.1) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()


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
    inputs = measured(Pool.of(Part(images, np.zeros(3000, np.int64)), torch.device("cpu")), 5)
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
    inputs = measured(Pool.of(Part(features, np.zeros(500, np.int64)), torch.device("cpu")), 2)
    assert inputs.mean == pytest.approx(features.mean(0).tolist(), rel=1e-4)
    assert Normalize(inputs)(torch.from_numpy(features)).shape == (500, 6)


def test_evaluation_puts_the_mode_back_and_moves_no_statistic() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = Pool.of(Part(np.ones((700, 3), np.float32), np.zeros(700, np.int64)), torch.device("cpu"))
    answers = {accuracy(model, data, 0) for _ in range(3)}
    assert len(answers) == 1  # no dropout
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


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
        network(Wrong(what), inputs, Seeds(0))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"mega-batch 1, epoch \d+, at learning rate 1e\+30: try a smaller --lr"):
        forgetkit.run({**SMALL, "epochs": 9, "lr": 1e30, "milestones": (), "out": str(tmp_path)})


def test_a_single_sample_under_batch_normalisation() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), 8, "none", (), ())
    one = Pool.of(Part(np.ones((1, 4), np.float32), np.zeros(1, np.int64)), torch.device("cpu"))
    with pytest.raises(ConfigError, match="a batch of a single sample: use fewer --mega-batches"):
        trainer.epoch(one, 1, 1, 0.1, Seeds(0))


CALLS: list[tuple[str, int, int, int]] = []


@dataclass(frozen=True)
class PullBack(Intervention):
    """A penalty on the distance from the weights that a mega-batch began with."""

    strength: float = 0.5

    def begin(self, moment: Moment) -> None:
        CALLS.append(("begin", moment.mega_batch, moment.epoch, moment.step))
        for name, p in moment.model.named_parameters():
            moment.state[name] = p.detach().clone()

    def loss(self, moment: Moment) -> Tensor:
        CALLS.append(("loss", moment.mega_batch, moment.epoch, moment.step))
        return self.strength * sum(
            (p - moment.state[name]).square().sum() for name, p in moment.model.named_parameters()
        )

    def after_step(self, moment: Moment) -> None:
        CALLS.append(("step", moment.mega_batch, moment.epoch, moment.step))

    def after_epoch(self, moment: Moment) -> None:
        CALLS.append(("epoch", moment.mega_batch, moment.epoch, moment.step))


def test_an_intervention_acts_at_its_moments_and_on_the_loss() -> None:
    CALLS.clear()
    data = Pool.of(Part(np.eye(4, dtype=np.float32), np.arange(4)), torch.device("cpu"))
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
            interventions,
            [{} for _ in interventions],
        )
        trainer.begin(3, Seeds(0))
        for epoch in (1, 2):
            trainer.epoch(data, 3, epoch, 0.01, Seeds(0))
        moved.append(float((model.weight.detach() - start).norm()))
        if interventions == (PullBack(),):
            steps = [(k, 3, e, s) for e in (1, 2) for s in (0, 1) for k in ("loss", "step")]
            expected = [("begin", 3, 1, 0), *steps[:4], ("epoch", 3, 1, 2), *steps[4:], ("epoch", 3, 2, 2)]
            assert expected == CALLS
    assert moved[0] > moved[1] > moved[2] > 0


def test_dropout_is_fixed_by_the_seed_and_leaves_the_global_state_alone() -> None:
    data = Pool.of(Part(np.random.default_rng(0).random((40, 6), np.float32), np.arange(40) % 3), torch.device("cpu"))

    def trained(seed: int) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))
        state = torch.get_rng_state()
        trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), 8, "none", (), ())
        trainer.epoch(data, 1, 1, 0.1, Seeds(seed))
        assert torch.equal(state, torch.get_rng_state())
        return model[0].weight.detach().clone()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_builders_and_their_networks_agree_on_a_seed() -> None:
    inputs = Inputs((1, 8, 8), 10, (0.3,), (0.3,))
    builder = registry.load().make("models", "convnet")[1]
    nets = [network(builder, inputs, Seeds(seed)).state_dict() for seed in (0, 0, 1)]
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
    assert result["config"]["interventions"] == ["test_learn.PullBack:strength=0.1"]
    assert {call[0] for call in CALLS} == {"begin", "loss", "step", "epoch"}
