"""A network without its least important entries, against a few lines of NumPy."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from forgetkit.analysis import answers
from forgetkit.analysis.evidence import ModelEvidence, model_evidence
from forgetkit.builtin.analyses.corruption import accuracies_under_corruption
from forgetkit.builtin.analyses.redundancy import Redundancy
from forgetkit.contracts import Answer
from forgetkit.errors import InapplicableError
from forgetkit.seeding import Seeds
from forgetkit.testing import check_analysis

TRAIN, TEST = (300, 200)


def evidence(images: bool = False, seed: int = 0) -> ModelEvidence:
    """A network that knows most of its training samples."""
    rng = torch.Generator().manual_seed(seed)
    shape = (3, 8, 8) if images else (6,)
    inputs = torch.rand(TRAIN + TEST, *shape, generator=rng)
    flat = inputs.flatten(1)
    labels = (flat[:, 0] + flat[:, 1] > 1).long() + (flat[:, 2] > 0.7).long()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(flat.shape[1], 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)
        )
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[:TRAIN]), labels[:TRAIN]).backward()
        optimizer.step()
    optimizer.zero_grad()
    parts = {"train": (inputs[:TRAIN], labels[:TRAIN]), "test": (inputs[TRAIN:], labels[TRAIN:])}
    return model_evidence(model, parts, Seeds(3).within("analysis"))  # type: ignore[arg-type]


def numbers(answer: Answer) -> dict[str, float | None]:
    found = answers.answer_columns([answers.StoredAnswer("r", "redundancy", "", None, answer)])
    return {key.removeprefix("r_"): measure.value for key, measure in found.items()}


@pytest.mark.parametrize("params", ["all", "weights", "conv-linear"])
@pytest.mark.parametrize("fraction", [0.2, 0.55])
def test_it_is_what_a_few_lines_find(params: str, fraction: float) -> None:
    shown = evidence()
    answer = Redundancy(importance="magnitude", params=params, fraction=fraction).analyze(shown)  # type: ignore[arg-type]
    inside = {
        "all": {"1.weight", "1.bias", "2.weight", "2.bias", "4.weight", "4.bias"},
        "weights": {"1.weight", "2.weight", "4.weight"},
        "conv-linear": {"1.weight", "4.weight"},
    }[params]
    state = {name: value.numpy().copy() for name, value in shown.model.state_dict().items()}
    names = [name for name in state if name in inside]
    pooled = np.concatenate([np.abs(state[name]).ravel() for name in names])
    lowest = np.argsort(pooled, kind="stable")[: math.ceil(fraction * len(pooled))]
    flat = np.concatenate([state[name].ravel() for name in names])
    flat[lowest] = 0
    for name, piece in zip(names, np.split(flat, np.cumsum([state[n].size for n in names])[:-1]), strict=True):
        state[name] = piece.reshape(state[name].shape)

    def right(part: str, of: dict[str, np.ndarray]) -> float:
        inputs, labels = (torch.cat(side).double().numpy() for side in zip(*shown.samples(part).batches(), strict=True))  # type: ignore[arg-type]
        hidden = inputs.reshape(len(inputs), -1) @ of["1.weight"].T + of["1.bias"]
        scale = of["2.weight"] / np.sqrt(of["2.running_var"] + 1e-5)
        hidden = np.maximum((hidden - of["2.running_mean"]) * scale + of["2.bias"], 0)
        return float(((hidden @ of["4.weight"].T + of["4.bias"]).argmax(1) == labels).mean())

    original = {name: value.numpy() for name, value in shown.model.state_dict().items()}
    total = sum(parameter.numel() for parameter in shown.model.parameters())
    expected = {
        "parameters": total,
        "parameters_left": total - len(lowest),
        **{f"dense_{part}": right(part, original) for part in ("train", "test")},
        **{f"sparse_{part}": right(part, state) for part in ("train", "test")},
    }
    found = numbers(answer)
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    for which in ("dense", "sparse"):
        ratio = expected[f"{which}_test"] / expected[f"{which}_train"]
        assert answer.details[which]["test_to_train"] == pytest.approx(ratio)
    assert answer.details["zeroed"] == {name: [int((state[name] == 0).sum()), state[name].size] for name in names}
    assert answer.details["threshold"] == pytest.approx(np.sort(pooled)[len(lowest) - 1])


@pytest.mark.slow
def test_the_count_left_is_that_of_table_10() -> None:
    """Of 0.8 · 11,173,962 = 8,939,169.6 entries the paper prints the whole part."""

    class Big:
        seeds = Seeds(0)
        model = nn.Linear(11_173_962, 1, bias=False)
        images = False

        def scores(self, importance: str, params: str) -> dict[str, torch.Tensor]:
            return {"weight": self.model.weight.detach().abs()}

        def copy_model(self) -> nn.Module:
            return nn.Linear(11_173_962, 1, bias=False)

        def samples(self, part: str, count: int | None = None) -> SimpleNamespace:
            return SimpleNamespace(batches=lambda: iter([(torch.zeros(1, 3), torch.zeros(1))]))

        def accuracy(self, samples: SimpleNamespace, model: nn.Module | None) -> float:
            return 0.5

    assert numbers(Redundancy().analyze(Big()))["parameters_left"] == 8_939_169  # type: ignore[arg-type]
    assert numbers(Redundancy(round="down").analyze(Big()))["parameters_left"] == 8_939_170  # type: ignore[arg-type]


def test_zeroing_nothing_or_everything() -> None:
    same = numbers(Redundancy(fraction=0).analyze(evidence()))
    assert same["parameters"] == same["parameters_left"]
    for part in ("train", "test"):
        assert same[f"dense_{part}"] == same[f"sparse_{part}"]
    shown = evidence()
    none = numbers(Redundancy(fraction=1).analyze(shown))
    assert none["parameters_left"] == 0
    assert none["sparse_test"] == (shown.samples("test").labels == 0).double().mean()  # all outputs are 0


@pytest.mark.slow
def test_the_entries_that_matter_least_are_missed_least() -> None:
    """The lowest fifth by SNIP costs less than a fifth at random, in the mean over networks."""
    least, random = (
        [numbers(Redundancy(importance=spec, fraction=0.4).analyze(evidence(seed=seed))) for seed in range(3)]
        for spec in ("snip", "random")
    )
    assert sum(n["sparse_train"] or 0 for n in least) > sum(n["sparse_train"] or 0 for n in random) + 0.1


def test_samples_at_most() -> None:
    answer = numbers(Redundancy(samples=7).analyze(evidence()))
    assert all(((answer[key] or 0) * 7) % 1 == pytest.approx(0, abs=1e-9) for key in ("dense_train", "sparse_test"))


@pytest.mark.slow
def test_robust_accuracy_is_on_the_same_corrupted_images() -> None:
    shown = evidence(images=True)
    answer = Redundancy(importance="magnitude", params="conv-linear", fraction=0.5, corrupted=9).analyze(shown)
    sparse = shown.copy_model()
    weights = [sparse[1].weight, sparse[4].weight]  # type: ignore[index]
    pooled = torch.cat([weight.detach().abs().flatten() for weight in weights])
    threshold = pooled.sort().values[len(pooled) // 2 - 1]
    for weight in weights:
        weight.data[weight.abs() <= threshold] = 0
    for name, model in (("dense", None), ("sparse", sparse)):
        expected = accuracies_under_corruption(shown, model, samples=9)
        assert answer.details[name]["corruptions"] == expected
        assert numbers(answer)[f"{name}_robust"] == pytest.approx(np.mean(list(expected.values())))
        ratio = numbers(answer)[f"{name}_robust"] / numbers(answer)[f"{name}_train"]  # type: ignore[operator]
        assert answer.details[name]["robust_to_train"] == pytest.approx(ratio)
    assert answer.details["dense"]["corruptions"] != answer.details["sparse"]["corruptions"]


def test_of_features_there_is_no_robust_accuracy() -> None:
    answer = Redundancy().analyze(evidence())
    assert numbers(answer)["dense_robust"] is None
    assert answer.remarks == (
        ["there is no robust accuracy: the samples are features, not images, and corruptions need images"]
    )
    assert Redundancy(corrupted=0).analyze(evidence()).remarks == []


def test_without_training_samples_it_does_not_apply() -> None:
    inputs, labels = torch.rand(4, 6), torch.zeros(4, dtype=torch.long)
    shown = model_evidence(nn.Linear(6, 3), {"test": (inputs, labels)}, Seeds(0))
    with pytest.raises(InapplicableError, match="train"):
        Redundancy().analyze(shown)


@pytest.mark.slow
def test_it_keeps_the_promises_of_analyses() -> None:
    verdicts = check_analysis(Redundancy(corrupted=1))
    assert all(verdict.status == "kept" for verdict in verdicts)
