"""Signs of a network that learns less and less, against closed forms, loops, finite differences and what redo sees."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.finished_runs import Past
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from forgetkit.analysis import answers
from forgetkit.analysis.evidence import ModelEvidence, model_evidence
from forgetkit.builtin.analyses.plasticity import Plasticity
from forgetkit.contracts import Answer
from forgetkit.errors import InapplicableError
from forgetkit.seeding import Seeds
from forgetkit.testing import check_analysis, networks
from forgetkit.testing.networks import NetworkFixture
from forgetkit.unlearning.activity import activity_in, capture_inputs
from forgetkit.unlearning.units import units_of


def shown(situation: NetworkFixture, **more: Any) -> ModelEvidence:
    inputs, labels = (torch.cat(parts) for parts in zip(*situation.batches, strict=True))
    return model_evidence(situation.model.eval(), {"test": (inputs, labels)}, Seeds(0), **more)


def number(answer: Answer, key: str) -> float | None:
    value: float | None = answers.answer_to_json(answer)["numbers"][key]["value"]
    return value


def number_of(evidence: ModelEvidence, key: str) -> float | None:
    return number(Plasticity().analyze(evidence), key)


def reading(features: Tensor, head: int = 3) -> ModelEvidence:
    """A network whose head reads exactly these features, ``(samples, width)``."""
    width = features.shape[1]
    body = nn.Linear(width, width, bias=False)
    nn.init.eye_(body.weight)
    labels = torch.arange(len(features)) % head
    return model_evidence(nn.Sequential(body, nn.Linear(width, head)), {"test": (features, labels)}, Seeds(0))


def of_singular_values(values: Sequence[float], samples: int = 24) -> Tensor:
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(samples, len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    return torch.tensor(left @ np.diag(values) @ right, dtype=torch.float32)


class Functional(nn.Module):
    """A residual network whose nonlinearities and reshaping are functions, its shortcut a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 5, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 5, 1)
        self.hidden = nn.Linear(20, 7)
        self.head = nn.Linear(7, 3)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        stem = torch.relu(self.stem(x))
        inner = self.inner(stem).clamp(min=0)
        block = torch.relu(self.outer(inner) + self.shortcut(stem))
        pooled = nn.functional.max_pool2d(block, 2)
        hidden = torch.relu(self.hidden(pooled.view(len(x), -1)))
        return {"inner": stem, "outer": inner, "hidden": pooled, "head": hidden}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.parts(x)["head"])  # type: ignore[no-any-return]


def functional() -> NetworkFixture:
    torch.manual_seed(0)
    model = Functional()
    with torch.no_grad():
        model.stem.bias[0] = -100.0
        model.inner.bias[1:4] = -100.0
        model.hidden.bias[5] = -100.0
    return NetworkFixture(model, [(torch.randn(12, 2, 4, 4), torch.arange(12) % 3)])


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_equal_singular_values_have_full_effective_rank(rank: int) -> None:
    answer = Plasticity().analyze(reading(of_singular_values([2.0] * rank + [0.0] * (8 - rank))))
    assert number(answer, "effective_rank") == pytest.approx(rank, rel=1e-4)
    assert answer.details["mega_batches"][0]["ranks"]["hard"] == rank


@pytest.mark.slow
@given(st.lists(st.floats(0.05, 10), min_size=2, max_size=8))
def test_the_effective_rank_of_known_singular_values(values: list[float]) -> None:
    entropy = 0.0
    for value in values:
        entropy -= value / sum(values) * math.log(value / sum(values))
    found = number_of(reading(of_singular_values(values)), "effective_rank")
    assert found == pytest.approx(math.exp(entropy), rel=1e-4)
    assert found is not None
    assert 1 - 1e-6 <= found <= len(values) + 1e-6


def test_features_are_gathered_over_all_batches() -> None:
    """The rows of a multiple of the identity, of which no batch has more than 64."""
    answer = Plasticity(samples=200).analyze(reading(torch.eye(130)))
    assert number(answer, "effective_rank") == pytest.approx(130)
    assert answer.details["samples"] == 130


def test_the_hard_rank_is_reached_at_99_per_cent_of_the_sum() -> None:
    answer = Plasticity().analyze(reading(of_singular_values([10.0, 5.0, 4.0, 0.5, 0.1, 0.05])))
    assert answer.details["mega_batches"][0]["ranks"]["hard"] == 4  # 19 of 19.65 are 96.7 %, 19.5 are 99.2 %


def test_zero_features_have_rank_zero_and_dormant_units() -> None:
    answer = Plasticity(tau=0).analyze(reading(torch.zeros(6, 4)))
    assert number(answer, "effective_rank") == 0.0
    assert answer.details["mega_batches"][0]["ranks"]["hard"] == 0
    assert number(answer, "dormant") == 1.0


def test_fewer_samples_than_features_are_said() -> None:
    answer = Plasticity(samples=4).analyze(reading(of_singular_values([1.0] * 8)))
    assert answer.details["samples"] == 4
    assert any("4 at most" in remark for remark in answer.remarks)


def test_units_that_never_fire_are_found_in_their_layers() -> None:
    answer = Plasticity(tau=0).analyze(shown(networks.dead_units()))
    assert answer.details["units"] == [
        {"read_by": "3", "units": 4, "dormant": 2, "silent": 2},
        {"read_by": "5", "units": 5, "dormant": 1, "silent": 1},
    ]
    assert number(answer, "dormant") == pytest.approx(3 / 9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [networks.plain, networks.pixels, networks.dead_and_normalised, networks.channels_last, networks.frozen]
)
def test_dormant_are_those_that_redo_would_restart(make: Any) -> None:
    situation = make()
    model = situation.model.eval()
    inputs = torch.cat([batch for batch, _ in situation.batches])
    every = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    groups = units_of(model, inputs, every)
    with torch.no_grad(), capture_inputs(model, [name for group in groups for name in group.readers]) as seen:
        model(inputs)
    sizes = {name: h.abs().mean((0, 2)) for name, h in activity_in(groups, model, seen, len(inputs)).items()}
    assert len(sizes) == 2
    for tau in (0.0, 0.1, 0.9):
        dormant = {group.readers[0]: sizes[group.name] <= tau * sizes[group.name].mean() for group in groups}
        rows = Plasticity(tau=tau).analyze(shown(situation)).details["units"]
        assert {row["read_by"]: (row["units"], row["dormant"]) for row in rows} == {
            reader: (len(units), int(units.sum())) for reader, units in dormant.items()
        }


def test_functions_in_place_of_modules_and_residual_blocks() -> None:
    situation = functional()
    (inputs, _), tau = situation.batches[0], 0.3
    rows = Plasticity(tau=tau).analyze(shown(situation)).details["units"]
    expected = []
    with torch.no_grad():
        for reader, value in situation.model.parts(inputs).items():  # type: ignore[operator]
            sizes = [float(value[:, unit].abs().double().mean()) for unit in range(value.shape[1])]
            dormant = [size for size in sizes if size <= tau * sum(sizes) / len(sizes)]
            silent = [size for size in sizes if size == 0]
            expected.append({"read_by": reader, "units": len(sizes), "dormant": len(dormant), "silent": len(silent)})
    assert rows == expected
    assert [row["silent"] for row in rows[:3]] == [1, 3, 0]
    assert rows[3]["silent"] >= 1


def test_layers_that_read_tokens() -> None:
    torch.manual_seed(0)
    body, head = nn.Linear(6, 5), nn.Linear(5, 3)
    with torch.no_grad():
        body.bias[2] = -100.0

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.body(x))).mean(1)  # type: ignore[no-any-return]

    inputs = torch.randn(9, 4, 6)
    answer = Plasticity(tau=0).analyze(shown(NetworkFixture(Tokens(), [(inputs, torch.arange(9) % 3)])))
    assert answer.details["units"] == [{"read_by": "head", "units": 5, "dormant": 1, "silent": 1}]
    with torch.no_grad():
        values = np.linalg.svd(torch.relu(body(inputs)).mean(1).double().numpy(), compute_uv=False)
    shares = values[values > 0] / values.sum()
    assert number(answer, "effective_rank") == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_without_hidden_units_there_are_no_features() -> None:
    answer = Plasticity().analyze(shown(networks.linear()))
    assert number(answer, "dormant") is None
    assert number(answer, "effective_rank") is None
    assert any("no hidden units" in remark for remark in answer.remarks)
    assert not answer.charts


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """The mean cross-entropy, a sample at a time."""
    with torch.no_grad():
        outputs = model(inputs).tolist()
    return sum(
        math.log(sum(math.exp(o) for o in row)) - row[y] for row, y in zip(outputs, labels.tolist(), strict=True)
    ) / len(labels)


@pytest.mark.parametrize("make", [networks.linear, networks.frozen, networks.tied])
def test_the_gradient_norm_is_that_of_finite_differences(make: Any) -> None:
    situation = make()
    found = number_of(shown(situation), "gradient_norm")
    model = situation.model.double()
    inputs, labels = (torch.cat(parts) for parts in zip(*situation.batches, strict=True))
    square, step = 0.0, 1e-5
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        for at in np.ndindex(tuple(parameter.shape)):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[at] += sign * step
                    ends.append(loss_of(model, inputs.double(), labels))
                    parameter[at] -= sign * step
            square += ((ends[0] - ends[1]) / (2 * step)) ** 2
    assert found == pytest.approx(math.sqrt(square), rel=1e-4)


def test_the_gradient_does_not_depend_on_the_batches() -> None:
    situation = networks.plain()
    inputs, labels = torch.randn(150, 2, 4, 4), torch.arange(150) % 3  # more than two batches
    loss = nn.functional.cross_entropy(situation.model(inputs), labels)
    grads = torch.autograd.grad(loss, list(situation.model.parameters()))
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
    assert number_of(shown(NetworkFixture(situation.model, [(inputs, labels)])), "gradient_norm") == pytest.approx(
        expected
    )


def a_run(**more: Any) -> Past:
    """Four mega-batches, of which each has weights of its own."""
    models = {}
    for n in range(1, 5):
        torch.manual_seed(n)
        models[n] = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    torch.manual_seed(9)
    began = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return Past(models, networks.linear().batches[0], began=began, **more)


def apart(one: nn.Module, other: nn.Module | None = None) -> float:
    """The L2 distance, an entry at a time; without another model the norm."""
    square = 0.0
    for name, parameter in one.named_parameters():
        values = [0.0] * parameter.numel() if other is None else other.get_parameter(name).flatten().tolist()
        square += sum((a - b) ** 2 for a, b in zip(parameter.flatten().tolist(), values, strict=True))
    return math.sqrt(square)


def test_norms_and_distances_along_a_run() -> None:
    run = a_run()
    answer = Plasticity().analyze(run)
    rows = answer.details["mega_batches"]
    assert [row["mega_batch"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        model = run.models[row["mega_batch"]]
        assert row["weight_norm"] == pytest.approx(apart(model))
        assert row["distance_initial"] == pytest.approx(apart(model, run.began))
        before = run.models.get(row["mega_batch"] - 1)
        assert row["distance_previous"] == (None if before is None else pytest.approx(apart(model, before)))
    for key in ("weight_norm", "distance_initial", "distance_previous", "dormant", "effective_rank"):
        assert number(answer, key) == rows[-1][key]
        (chart,) = (c for c in answer.charts if c.name == key)
        assert list(chart.series[0].y) == [row[key] for row in rows]
    assert run.asked == [1, 2, 3]
    json.dumps(answers.answer_to_json(answer), allow_nan=False)


def test_what_layers_have_adds_up() -> None:
    answer = Plasticity().analyze(a_run())
    layers = answer.details["layers"]
    assert [(row["layer"], row["entries"]) for row in layers] == [("0", 35), ("2", 18)]
    for key in ("weight_norm", "gradient_norm", "distance_initial", "distance_previous"):
        assert number(answer, key) == pytest.approx(math.sqrt(sum(row[key] ** 2 for row in layers)))


def test_trends_are_slopes_by_least_squares() -> None:
    answer = Plasticity(tau=0.7).analyze(a_run())
    for key in ("dormant", "effective_rank"):
        values = [row[key] for row in answer.details["mega_batches"]]
        assert number(answer, f"{key}_trend") == pytest.approx(float(np.polyfit([1, 2, 3, 4], values, 1)[0]), abs=1e-12)
    assert answer.details["trends"]["weight_norm"] != 0


def test_a_missing_model_leaves_a_gap() -> None:
    run = a_run(standing=3)
    del run.models[2]
    answer = Plasticity().analyze(run)
    assert [row["mega_batch"] for row in answer.details["mega_batches"]] == [1, 3]
    assert number(answer, "distance_previous") is None
    assert number(answer, "distance_initial") == pytest.approx(apart(run.models[3], run.began))


def test_a_run_that_keeps_one_model_has_no_trends_and_says_why() -> None:
    run = a_run()
    answer = Plasticity().analyze(Past({4: run.models[4]}, run.test, began=run.began))
    assert number(answer, "effective_rank_trend") is None
    assert number(answer, "weight_norm") == pytest.approx(apart(run.models[4]))
    assert any("--keep-models all" in remark for remark in answer.remarks)
    assert not any("--keep" in remark for remark in Plasticity().analyze(run).remarks)


def epochs(**accuracies: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"mega_batch": int(name[1:]), "epoch": n, "accuracy": accuracy, "loss": 1 - accuracy}
        for name, several in accuracies.items()
        for n, accuracy in enumerate(several, 1)
    ]


def test_how_fast_a_mega_batch_was_fitted() -> None:
    history = epochs(m1=[0.1, 0.5, 0.94, 0.95, 1.0], m2=[0.6, 0.8], m3=[0.9], m4=[0.2, 0.2, 0.4])
    run = a_run(epochs=history)
    del run.models[1]
    answer = Plasticity(fit=0.95).analyze(run)
    charts = {chart.name: list(chart.series[0].y) for chart in answer.charts}
    assert charts["fit_epochs"] == [4, 2, 1, 3]  # of the first too, whose model is gone
    assert charts["fit_accuracy"] == pytest.approx([3.49 / 5, 0.7, 0.9, 0.8 / 3])
    assert (number(answer, "fit_epochs"), number(answer, "fit_accuracy")) == (3, pytest.approx(0.8 / 3))
    assert answer.details["trends"]["fit_accuracy"] == pytest.approx(
        float(np.polyfit([1, 2, 3, 4], [3.49 / 5, 0.7, 0.9, 0.8 / 3], 1)[0])
    )
    half = Plasticity(fit=0.5).analyze(run)
    assert next(list(chart.series[0].y) for chart in half.charts if chart.name == "fit_epochs") == [2, 1, 1, 1]


def test_a_run_whose_events_are_lost_is_measured_all_the_same() -> None:
    class Silent(Past):
        def history(self) -> Any:
            raise InapplicableError("its events are gone")

    run = a_run()
    answer = Plasticity().analyze(Silent(run.models, run.test))
    assert number(answer, "fit_epochs") is None
    assert number(answer, "weight_norm") == pytest.approx(apart(run.models[4]))
    assert any("its events are gone" in remark for remark in answer.remarks)
    assert any("initial" in remark for remark in answer.remarks)


def test_outputs_that_are_no_numbers() -> None:
    situation = networks.plain()
    with torch.no_grad():
        next(situation.model.parameters()).fill_(math.inf)
    with pytest.raises(InapplicableError, match="not finite"):
        Plasticity().analyze(shown(situation))


def test_it_keeps_its_promises() -> None:
    assert {verdict.status for verdict in check_analysis(Plasticity())} == {"kept"}
