"""Plasticity: whether a network can still learn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from forgetkit.builtin.analyses._activations import ActivationRecord, record_activations
from forgetkit.builtin.analyses._answers import bars, finite
from forgetkit.builtin.analyses._outputs import require_samples
from forgetkit.contracts import Answer, Better, Chart, DataPart, Evidence, Measure, Series, Unit
from forgetkit.errors import InapplicableError

Weights = Mapping[str, Tensor]
Rows = list[dict[str, Any]]

_SPECTRUM = 0.99
"""The share of the sum of the singular values that the hard rank accounts for."""


@dataclass(frozen=True)
class _ShownNumber:
    """The label of its axis, the caption of its chart, and how it compares."""

    label: str
    caption: str
    better: Better | None = None
    unit: Unit = "number"

    def measure(self, value: float | None) -> Measure:
        meaning = f"{self.caption[0].lower()}{self.caption[1:]}"
        return Measure(
            finite(value), self.better, self.unit, meaning=meaning, bounds=(0, 1 if self.unit == "fraction" else None)
        )


_NUMBERS = {
    "dormant": _ShownNumber("share of the units", "Dormant units", "lower", "fraction"),
    "effective_rank": _ShownNumber("effective rank", "Effective rank of the features that the head reads"),
    "weight_norm": _ShownNumber("L2 norm", "Norm of all parameters"),
    "gradient_norm": _ShownNumber("L2 norm", "Norm of the mean loss's gradient"),
    "distance_initial": _ShownNumber("L2 distance", "Distance from the parameters that the run began with"),
    "distance_previous": _ShownNumber("L2 distance", "Distance from the parameters after the mega-batch before"),
    "fit_epochs": _ShownNumber("epochs", "Epochs until a mega-batch was nearly fitted", "lower", "count"),
    "fit_accuracy": _ShownNumber("training accuracy", "Mean training accuracy over the epochs", "higher", "fraction"),
}  # fmt: skip
_TRENDS = ("dormant", "effective_rank")


@dataclass(frozen=True)
class Plasticity:
    """Signs of a network that learns less and less: dormant units, low-rank features, growing weights, slow fitting.

    Formula: unit i of a layer is dormant where E|h_i| ≤ tau · mean_k E|h_k|, with h what the next convolution or linear
    layer reads of it. The effective rank is exp(-Σ p_j ln p_j), p_j = σ_j / Σ σ, of the singular values σ of the
    features that the head reads, a row per sample. Norms and distances are L2 norms over all parameters; the gradient
    is that of the mean loss over the samples.

    tau: how active, as a share of the mean of its layer, a dormant unit is at most; 0: those that never fire.
    samples: how many samples to measure on, drawn by the seed.
    part: which samples: test, train (those of the mega-batch) or val.
    fit: a mega-batch is fitted in the first epoch whose training accuracy reaches this share of its best one.

    Cost: one forward and one backward pass over the samples, and the singular values, for each mega-batch.

    Source: dormant units: Sokar et al., 2023; effective rank: Roy and Vetterli, 2007; as signs of plasticity: Dohare
    et al., 2024, and Lyle et al., 2023.
    """

    tau: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    samples: Annotated[int, Field(ge=1)] = 1000
    part: DataPart = "test"
    fit: Annotated[float, Field(gt=0, le=1)] = 0.95

    def analyze(self, evidence: Evidence) -> Answer:
        """Measure each mega-batch with a kept model, up to the one asked about; or the model alone if it has no run."""
        remarks: list[str] = []
        initial = _initial_weights(evidence, remarks)
        fits = self._fits(evidence, remarks)
        states: list[_State] = []
        previous: tuple[int | None, Weights] = (None, {})
        for n in _kept_models(evidence):
            then = evidence if n in (None, evidence.mega_batch) else evidence.at(n)
            weights = _weights(then.model)
            before = previous[1] if n is not None and previous[0] == n - 1 else None
            state = self._state(then, _WeightComparison(weights, initial, before))
            state.numbers.update({} if n is None else fits.get(n, {}))
            states.append(state)
            previous = (n, weights)
        if len(states) == 1 and previous[0] not in (None, 1):
            remarks.append(
                f"of the models up to mega-batch {previous[0]} only one is kept, so there are no trends: keep all with "
                "--keep-models all, of an ablation with --keep all"
            )
        return self._answer(states, fits, [*remarks, *states[-1].remarks])

    def _state(self, evidence: Evidence, compared: _WeightComparison) -> _State:
        """Measure one model."""
        samples = require_samples(evidence, self.part, self.samples)
        record = record_activations(evidence, samples)
        units = [_row_of_units(name, activity, self.tau) for name, activity in record.activity.items()]
        layers = list(compared.by_layer(record.gradients))
        numbers: dict[str, float | None] = {
            "dormant": sum(r["dormant"] for r in units) / sum(r["units"] for r in units) if units else None,
            **compared.overall(record.gradients),
        }
        ranks, remarks = _ranks(record)
        if not units:
            remarks.append("no layer reads the output of another one: there are no hidden units")
        numbers["effective_rank"] = ranks.get("effective")
        return _State(evidence.mega_batch, len(samples), numbers, units, layers, ranks, remarks)

    def _fits(self, evidence: Evidence, remarks: list[str]) -> dict[int, dict[str, float | None]]:
        """How fast each mega-batch was fitted, by its number."""
        if evidence.mega_batch is None:
            return {}
        try:
            history = evidence.history()
        except InapplicableError as error:
            remarks.append(f"how fast mega-batches were fitted is not known: {error}")
            return {}
        accuracies: dict[int, list[float]] = {}
        for epoch in history:
            accuracies.setdefault(epoch["mega_batch"], []).append(float(epoch["accuracy"]))
        return {n: _fit(seen, self.fit) for n, seen in accuracies.items()}

    def _answer(
        self, states: Sequence[_State], fits: Mapping[int, Mapping[str, float | None]], remarks: Sequence[str]
    ) -> Answer:
        last = states[-1]
        series = {key: {s.mega_batch: s.numbers.get(key) for s in states} for key in _NUMBERS}
        for key in ("fit_epochs", "fit_accuracy"):  # also of mega-batches whose models are not kept
            series[key] = {n: fits[n][key] for n in sorted(fits)} or series[key]
        trends = {key: _slope(values) for key, values in series.items()}
        measures = {}
        for key, shown in _NUMBERS.items():
            measures[key] = shown.measure(last.numbers.get(key))
            if key in _TRENDS:
                measures[f"{key}_trend"] = Measure(
                    trends[key], shown.better, shown.unit, meaning=f"how much {key} grows with each mega-batch"
                )
        charts = [_line(key, values) for key, values in series.items() if len(_drawn_values(values)) > 1]
        if last.units:
            names, shares = [r["read_by"] for r in last.units], [r["dormant"] / r["units"] for r in last.units]
            caption = "Dormant units by the layer that reads them"
            charts.append(
                bars("dormant_layers", caption, "read by", "share of the units", Series("dormant", names, shares))
            )
        details = {
            "samples": last.samples,
            "mega_batches": [
                {"mega_batch": s.mega_batch, **{k: finite(s.numbers.get(k)) for k in _NUMBERS}, "ranks": s.ranks}
                for s in states
            ],
            "trends": trends,
            "units": last.units,
            "dormant_by_layer": _over_time(states),
            "layers": last.layers,
        }
        return Answer(measures, charts, details, remarks)


@dataclass(frozen=True, eq=False)
class _State:
    """The measurements of one model."""

    mega_batch: int | None
    samples: int
    numbers: dict[str, float | None]
    units: Rows
    layers: Rows
    ranks: dict[str, float]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _WeightComparison:
    """Parameters beside those of other models, or None without such a model."""

    weights: Weights
    initial: Weights | None
    previous: Weights | None

    def overall(self, gradients: Weights) -> dict[str, float | None]:
        """Norms and distances over all parameters."""
        return self._measured(list(self.weights), gradients)

    def by_layer(self, gradients: Weights) -> Iterator[dict[str, Any]]:
        """The same for each module that holds parameters, in the order of registration."""
        layers: dict[str, list[str]] = {}
        for name in self.weights:
            layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
        for layer, names in layers.items():
            entries = sum(self.weights[name].numel() for name in names)
            yield {"layer": layer, "entries": entries, **self._measured(names, gradients)}

    def _measured(self, names: Sequence[str], gradients: Weights) -> dict[str, float | None]:
        own = {name: self.weights[name] for name in names}
        known = [gradients[name] for name in names if name in gradients]
        return {
            "weight_norm": _norm(own.values()),
            "gradient_norm": _norm(known) if known else None,
            "distance_initial": _distance(own, self.initial),
            "distance_previous": _distance(own, self.previous),
        }


def _kept_models(evidence: Evidence) -> Sequence[int | None]:
    last = evidence.mega_batch
    return [None] if last is None else [*(n for n in evidence.mega_batches if n < last), last]


def _weights(model: nn.Module) -> Weights:
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}


def _initial_weights(evidence: Evidence, remarks: list[str]) -> Weights | None:
    try:
        return _weights(evidence.initial())
    except InapplicableError as error:
        remarks.append(f"no distance from initialisation: {error}")
        return None


def _norm(tensors: Any) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(t, dtype=torch.float64)) for t in tensors))


def _distance(weights: Weights, others: Weights | None) -> float | None:
    """None if the other model has other parameters."""
    if others is None or any(name not in others or others[name].shape != t.shape for name, t in weights.items()):
        return None
    return _norm(t.double() - others[name].double() for name, t in weights.items())


def _row_of_units(name: str, activity: Tensor, tau: float) -> dict[str, Any]:
    """No division: if a whole layer is silent, all of its units are dormant."""
    return {
        "read_by": name,
        "units": len(activity),
        "dormant": int((activity <= tau * activity.mean()).sum()),
        "silent": int((activity == 0).sum()),
    }


def _ranks(record: ActivationRecord) -> tuple[dict[str, float], list[str]]:
    """Ranks of the features, and remarks on them."""
    if record.features is None:
        return {}, ["no effective rank: no linear layer at the end reads the features of another one"]
    values = torch.linalg.svdvals(record.features.double())
    most = min(record.features.shape)
    remarks = []
    if len(record.features) < record.features.shape[1]:
        remarks.append(
            f"the effective rank is {most} at most, the number of samples: the features have "
            f"{record.features.shape[1]} entries; give more samples"
        )
    return {"effective": _effective_rank(values), "hard": _hard_rank(values), "at_most": most}, remarks


def _effective_rank(values: Tensor) -> float:
    """exp of the entropy of the singular ``values`` as shares; 0 if all are zero."""
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


def _hard_rank(values: Tensor) -> int:
    """How many singular values, the largest first, make up 99 % of their sum."""
    running = values.cumsum(0)
    return int((running < _SPECTRUM * running[-1]).sum()) + 1 if running[-1] > 0 else 0


def _fit(accuracies: Sequence[float], share: float) -> dict[str, float | None]:
    enough = share * max(accuracies)
    return {
        "fit_epochs": 1 + next(at for at, accuracy in enumerate(accuracies) if accuracy >= enough),
        "fit_accuracy": sum(accuracies) / len(accuracies),
    }


def _drawn_values(values: Mapping[int | None, float | None]) -> dict[int, float]:
    return {n: v for n, value in values.items() if n is not None and (v := finite(value)) is not None}


def _slope(values: Mapping[int | None, float | None]) -> float | None:
    """The least-squares slope per mega-batch; None for fewer than two points."""
    known = _drawn_values(values)
    if len(known) < 2:
        return None
    at = [n - sum(known) / len(known) for n in known]
    return sum(x * y for x, y in zip(at, known.values(), strict=True)) / sum(x * x for x in at)


def _line(key: str, values: Mapping[int | None, float | None]) -> Chart:
    shown = _NUMBERS[key]
    places = [n for n in values if n is not None]
    series = Series(key.replace("_", " "), places, [finite(values[n]) for n in places])
    return Chart(key, shown.caption, "mega-batch", shown.label, [series], unit=shown.unit)


def _over_time(states: Sequence[_State]) -> dict[str, list[int]]:
    """Dormant units by the layer that reads them, one count for each model."""
    found: dict[str, list[int]] = {}
    for state in states:
        for row in state.units:
            found.setdefault(row["read_by"], []).append(row["dormant"])
    return found
