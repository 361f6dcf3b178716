"""Criteria that watch the training, against a record of it in float64."""

from __future__ import annotations

import pytest
import torch
from forgetkit_saliency.movement import Movement
from forgetkit_saliency.path_integral import PathIntegral
from saliency_nets import batches, mlp, parameters
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forgetkit
from forgetkit.errors import OptionError

close = torch.testing.assert_close
Record = list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]]


class Trained:
    """A network trained for two mega-batches with momentum and weight decay, watched, and what each step was."""

    def __init__(self, component: object, mega_batches: int = 2, **optimizer: float) -> None:
        self.model = mlp().float()
        options = optimizer or {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
        stepper = torch.optim.SGD(self.model.parameters(), **options)
        self.attached = forgetkit.attach(self.model, stepper, [component])
        self.data = [(x.float(), y) for x, y in batches(6, 6, 6)]
        self.component = component
        for _ in range(mega_batches):
            self.record: Record = []
            self.attached.begin(*self.data[0])
            for _ in range(4):
                for batch in self.data:
                    self.step(stepper, *batch)
                self.attached.after_epoch()

    def step(self, stepper: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> None:
        before = parameters(self.model.double())
        self.model.float()
        with self.attached.step(inputs, targets) as step:
            loss = cross_entropy(self.model(inputs), targets)
            stepper.zero_grad()
            loss.backward()
            step.before()
            slopes = {name: p.grad.double() for name, p in self.model.named_parameters()}
            stepper.step()
        after = {name: p.detach().double() for name, p in self.model.named_parameters()}
        self.record.append((before, slopes, after))

    def scores(self) -> dict[str, Tensor]:
        return forgetkit.score(self.model, self.data, importance=self.component, memory=self.attached.memory)


def omega(record: Record, name: str) -> Tensor:
    return -sum(slopes[name] * (after[name] - before[name]) for before, slopes, after in record)


def test_the_path_integral_in_float64() -> None:
    trained = Trained(PathIntegral(xi=1e-3))
    for name, score in trained.scores().items():
        moved = trained.record[-1][2][name] - trained.record[0][0][name]
        expected = (omega(trained.record, name) / (moved.square() + 1e-3)).clamp_min(0)
        close(score.double(), expected, rtol=1e-4, atol=1e-4)
        assert bool((score == 0).any()) or name != "0.weight"


def test_the_path_integral_may_be_clipped() -> None:
    free, clipped = (Trained(PathIntegral(clip=clip)).scores() for clip in (None, 0.5))
    assert max(float(score.max()) for score in free.values()) > 0.5
    close(clipped, {name: score.clamp_max(0.5) for name, score in free.items()})


def test_the_path_integral_adds_up_to_the_fall_of_the_loss() -> None:
    trained = Trained(PathIntegral(), mega_batches=1, lr=1e-3)
    fall = 0.0
    for (before, _, after), (inputs, targets) in zip(trained.record, trained.data * 4, strict=True):
        values = []
        for at in (before, after):
            trained.model.double().load_state_dict(at)
            values.append(cross_entropy(trained.model(inputs.double()), targets).item())
        fall += values[0] - values[1]
    trained.model.float()
    memory = trained.attached.memory(trained.component)
    total = sum(float(value.sum()) for name, value in memory.items() if name.startswith("sum "))
    assert total == pytest.approx(fall, rel=1e-3)


def test_the_path_integral_keeps_no_more_than_two_copies() -> None:
    trained = Trained(PathIntegral())
    names = [name for name, _ in trained.model.named_parameters()]
    assert set(trained.attached.memory(trained.component)) == {
        f"{what} {n}" for what in ("sum", "start") for n in names
    }


def test_movement_in_float64() -> None:
    trained = Trained(Movement())
    for name, score in trained.scores().items():
        expected = -sum(slopes[name] * before[name] for before, slopes, _ in trained.record)
        close(score.double(), expected, rtol=1e-4, atol=1e-5)


class Sum(nn.Module):
    """Two weights with opposite pulls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.1, 5.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(1)


def test_what_grows_is_kept_and_what_shrinks_is_not() -> None:
    model = Sum()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(model, optimizer, [Movement()])
    inputs, targets = torch.tensor([[-1.0, 1.0]] * 2), torch.zeros(2)
    attached.begin(inputs, targets)
    for _ in range(3):
        with attached.step(inputs, targets) as step:
            optimizer.zero_grad()
            model(inputs).mean().backward()
            step.before()
            optimizer.step()
    assert model.weight.tolist() == pytest.approx([0.4, 4.7])  # still the smaller one, but on its way
    scores = forgetkit.score(
        model, [(inputs, targets)], importance=Movement(), memory=attached.memory, loss=lambda o, t: o.mean()
    )
    assert scores["weight"].tolist() == pytest.approx([0.1 + 0.2 + 0.3, -5.0 - 4.9 - 4.8])


def test_what_no_step_has_reached_scores_zero() -> None:
    model = mlp().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = forgetkit.attach(model, optimizer, [Movement()])
    ((inputs, targets),) = [(x.float(), y) for x, y in batches(6)]
    model[0].weight.requires_grad_(False)
    attached.begin(inputs, targets)
    with attached.step(inputs, targets) as step:
        cross_entropy(model(inputs), targets).backward()
        step.before()
        optimizer.step()
    model[0].weight.requires_grad_(True)
    scores = forgetkit.score(model, [(inputs, targets)], importance=Movement(), memory=attached.memory)
    assert not bool(scores["0.weight"].any())
    assert bool(scores["0.bias"].any())


@pytest.mark.parametrize("name", ["path-integral", "movement"])
def test_without_having_watched_it_says_so(name: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} watches the training: attach it"):
        forgetkit.score(mlp(), batches(4), importance=name)
