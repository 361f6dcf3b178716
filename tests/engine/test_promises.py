"""Small promises, each once broken: names of objects, derived randomness, what is refused before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import forgetkit
from forgetkit import config
from forgetkit.contracts import Change, Event, Intervention, InterventionContext, MegaBatchEnded
from forgetkit.errors import ConfigError, DataError, NoMatchError, OptionError
from forgetkit.registry import registry
from forgetkit.storage import RunDirectory

SMALL = {"dataset": "synthetic:samples=80,test=20,classes=4", "model": "mlp:width=8", "mega_batches": 3, "epochs": 2}


@dataclass(frozen=True)
class Snip:
    """Not the built-in: everything matters alike."""

    allows_ties = True

    def score(self, probe):
        return probe.zeros()


class Stop:
    """Interrupts after the first mega-batch."""

    def notify(self, event: Event) -> None:
        if isinstance(event, MegaBatchEnded) and event.row.index == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_object_is_never_taken_for_a_built_in_of_its_name(tmp_path: Path) -> None:
    options = {**SMALL, "importance": Snip(), "out": tmp_path, "threads": 1}
    whole = forgetkit.run({**options, "name": "whole"})
    assert whole["config"]["importance"] == f"{__name__}.Snip"
    assert whole["method"] == f"{__name__}.Snip+masked"
    assert [row["unlearn"]["threshold"] for row in whole["mega_batches"][:-1]] == [0.0, 0.0]
    with pytest.raises(KeyboardInterrupt):
        forgetkit.run({**options, "name": "cut"}, observers=[Stop()])
    cut = tmp_path / "cut"
    assert RunDirectory.reopen(cut).manifest["config"]["importance"] == f"{__name__}.Snip"
    with pytest.raises(OptionError, match="stands for an object given in Python: give it again"):
        forgetkit.run(resume=cut)
    resumed = forgetkit.run({"importance": Snip()}, resume=cut)
    saved = [(tmp_path / name / "checkpoints" / "mega-batch-003.pt").read_bytes() for name in ("whole", "cut")]
    assert saved[0] == saved[1]
    assert resumed["cer"] == whole["cer"]


@dataclass(frozen=True)
class Drawing:
    """Draws from the global random state, as it should not but may."""

    def propose(self, context):
        for name, old in context.targets.items():
            yield Change(name, None, torch.randn(old.shape) * 0.1)


class Dropping(nn.Module):
    """Drops even in eval mode."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(int(np.prod(shape)), classes)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.layer(x.flatten(1)), 0.5, training=True)


@dataclass(frozen=True)
class DroppingBuilder:
    """Builds it."""

    def build(self, inputs, normalize):
        return nn.Sequential(normalize, Dropping(inputs.shape, inputs.classes))


def test_what_draws_from_the_global_state_is_seeded_all_the_same(tmp_path: Path) -> None:
    results = []
    for name in ("once", "twice"):
        torch.manual_seed(len(results))  # the caller's state has no say
        before = torch.get_rng_state()
        options = {**SMALL, "reinit": Drawing(), "model": DroppingBuilder(), "out": str(tmp_path), "name": name}
        result = forgetkit.run(options)
        assert torch.equal(before, torch.get_rng_state())
        results.append([(r["test_errors"], r["train_accuracy"]) for r in result["mega_batches"]])
    assert results[0] == results[1]


SEEN: dict[str, list[float]] = {}


@dataclass(frozen=True)
class Noting(Intervention):
    """Notes what its generators give."""

    def begin(self, moment: InterventionContext) -> None:
        SEEN.setdefault("begin", []).append(torch.rand((), generator=moment.rng).item())

    def loss(self, moment: InterventionContext) -> None:
        SEEN.setdefault("loss", []).append(torch.rand((), generator=moment.rng).item())

    def after_step(self, moment: InterventionContext) -> None:
        SEEN.setdefault("after_step", []).append(torch.rand((), generator=moment.rng).item())


def test_no_two_moments_draw_the_same(tmp_path: Path) -> None:
    SEEN.clear()
    forgetkit.run({**SMALL, "interventions": [Noting()], "out": str(tmp_path)})
    drawn = [number for numbers in SEEN.values() for number in numbers]
    assert len(SEEN["loss"]) == len(SEEN["after_step"]) == 9  # the one tried out, then one, one and two steps an epoch
    assert len(set(drawn)) == len(drawn)


class Experts(nn.Module):
    """Two experts; the sign of the first feature says which one is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs = x.new_zeros(len(x), 3)
        for expert, chosen in ((self.first, x[:, 0] > 0), (self.second, x[:, 0] <= 0)):
            if chosen.any():
                outputs = outputs.index_put((chosen.nonzero().flatten(),), expert(x[chosen]))
        return outputs


def test_parameter_unused_by_the_first_two_samples_is_scored() -> None:
    inputs = torch.randn(40, 4)
    inputs[:, 0] = torch.arange(40.0) - 20.5  # the first two samples ask the second expert alone
    report = forgetkit.unlearn(Experts(), [(inputs, torch.arange(40) % 3)], importance="snip")
    assert report.left_out == {}
    assert report.scored == 30


class Tied(nn.Module):
    """A language model whose head shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(7, 5), nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(x)).mean(1))


def test_a_tied_head_is_the_head() -> None:
    batches = [(torch.randint(7, (6, 3)), torch.randint(7, (6,)))]
    assert set(forgetkit.unlearn(Tied(), batches, reinit="rifle", build=Tied).layers) == {"embedding.weight"}
    later = forgetkit.unlearn(Tied(), batches, reinit="llf:start=0.3", build=Tied)  # embedding | body, head
    assert set(later.layers) == {"body.weight", "body.bias"}, "what is shared with a kept layer is kept"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"milestones": (2, 5)}, ConfigError, "--milestones 5: the run's 2 epochs end before or with it"),
        ({"metrics": ["mega-batches"]}, OptionError, "no metric is called"),
        ({"model": "mlp:depth=0", "method": "llf"}, NoMatchError, "llf"),
        ({"importance": object()}, OptionError, "not a dataclass"),
        ({"importance": Drawing()}, OptionError, r"is no importance criterion: one has score\(\)"),
        ({"model": "resnet18", "batch_size": 1}, ConfigError, "use a larger --batch-size"),
        ({"seed": -1}, ConfigError, "--seed -1"),
        ({"out": ""}, ConfigError, "--out"),
    ],
)
def test_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, error: type[Exception], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=complaint):
        forgetkit.run({**SMALL, **options})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("watching", [{"carry": "best-val"}, {"patience": 1, "epochs": 3}], ids=str)
@pytest.mark.parametrize(
    "cut", [{"split": "contiguous", "mega_batches": 9}, {"val_fraction": 0.125, "mega_batches": 11}], ids=str
)
def test_later_mega_batch_without_validation_is_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: dict, watching: dict
) -> None:
    """80 in 9 leave the last none of 8 at the end, 80 in 11 an eighth of 7; with full replay there is always one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--val-fraction .* none to validate on"):
        forgetkit.run({**SMALL, **cut, **watching, "replay": "none"})
    assert not list(tmp_path.iterdir())
    result = forgetkit.run({**SMALL, **cut, **watching, "replay": "full"})
    assert all(row["carried_epoch"] >= 1 for row in result["mega_batches"])


@pytest.mark.slow
def test_mega_batch_without_validation_samples_has_no_gap(tmp_path: Path) -> None:
    options = {**SMALL, "split": "contiguous", "mega_batches": 9, "replay": "none", "out": tmp_path}
    result = forgetkit.run(options)
    assert [row["val_samples"] for row in result["mega_batches"]] == [1] * 8 + [0]
    assert [row["val_accuracy"] is None for row in result["mega_batches"]] == [False] * 8 + [True]
    assert result["generalization_gap"] is None


def test_features_cannot_be_mirrored(tmp_path: Path) -> None:
    labels = np.arange(40) % 2
    arrays = {f"x_{part}": np.random.default_rng(0).random((40, 3)) for part in ("train", "test")}
    np.savez(tmp_path / "f.npz", **arrays, y_train=labels, y_test=labels)
    with pytest.raises(DataError, match="features cannot be augmented by flip"):
        forgetkit.run({**SMALL, "dataset": f"npz:{tmp_path / 'f.npz'},augment=flip", "out": str(tmp_path / "runs")})
    assert not (tmp_path / "runs").exists()


@dataclass(frozen=True)
class Seconds:
    """Would overwrite an entry of the result."""

    def compute(self, rows):
        return 1


@dataclass(frozen=True)
class Failing:
    """Fails at the very end."""

    def compute(self, rows):
        raise RuntimeError("no")


def test_a_metric_can_neither_overwrite_nor_lose_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    offers = registry.load()
    taken = registry.ComponentEntry("metrics", "seconds", Seconds, "stranger")
    crowded = registry.Registry((*offers.components, taken), (), {})
    with pytest.raises(ConfigError, match="--metric seconds: the result has another entry of that name"):
        config.resolve({"metrics": ["seconds"]}, crowded)
    result = forgetkit.run({**SMALL, "metrics": [Failing()], "out": str(tmp_path)})
    assert result["test_accuracy"] > 0
    assert result[f"{__name__}.Failing"] is None
    assert "is left empty: RuntimeError: no" in caplog.text


def test_dashes_underscores_and_singulars_will_do(tmp_path: Path) -> None:
    options = {"mega-batches": 2, "metric": "cer", "out": tmp_path}
    result = forgetkit.run({**{k: v for k, v in SMALL.items() if k != "mega_batches"}, **options})
    assert result["config"]["mega_batches"] == 2
    assert result["config"]["metrics"] == ["cer"]


def test_numpy_seeds_and_scores_that_are_none() -> None:
    scores = {"a": torch.tensor([2.0, 1.0, 1.0, 1.0])}
    one, same = (forgetkit.select(scores, fraction=0.5, seed=seed)["a"] for seed in (3, np.int64(3)))
    assert torch.equal(one, same)
    for bad in (torch.tensor([1.0, float("nan")]), torch.tensor([1, 2]), [1.0, 2.0]):
        with pytest.raises(OptionError, match="'a' is not a tensor of finite floats"):
            forgetkit.select({"a": bad}, fraction=0.5)
    with pytest.raises(OptionError, match="not a whole number"):
        forgetkit.select(scores, fraction=0.5, seed=0.5)


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, other = nn.Linear(3, 3), nn.Linear(3, 3)
    with pytest.raises(OptionError, match="none of the model's parameters"):
        forgetkit.unlearn(model, importance="random", optimizer=torch.optim.SGD(other.parameters(), lr=0.1))


class WithoutGradient(nn.Module):
    """A linear network whose outputs cannot be learned from."""

    def __init__(self, inputs, frozen):
        super().__init__()
        self.head = nn.Linear(np.prod(inputs.shape), inputs.classes).requires_grad_(not frozen)
        self.frozen = frozen

    def forward(self, x):
        with torch.set_grad_enabled(self.frozen):
            return self.head(x.flatten(1))


@dataclass(frozen=True)
class WithoutGradientBuilder:
    """Builds it."""

    frozen: bool = False

    def build(self, inputs, normalize):
        return WithoutGradient(inputs, self.frozen)


@pytest.mark.parametrize(("frozen", "interventions"), [(False, []), (True, []), (False, ["l2-init"])])
def test_a_network_without_a_gradient_is_refused(tmp_path, frozen, interventions):
    """A penalty that has a gradient of its own changes nothing about that."""
    options = {"out": tmp_path, "method": "warm", "model": WithoutGradientBuilder(frozen)}
    with pytest.raises(ConfigError, match="the network's outputs have no gradient, so it learns nothing"):
        forgetkit.run({**SMALL, **options, "interventions": interventions})
    assert not list(tmp_path.iterdir())
