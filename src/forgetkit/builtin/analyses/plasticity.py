"""Whether a network can still learn: its units, its features, its weights, and how fast it fitted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from forgetkit.builtin.analyses._activations import ActivationRecord, record_activations
from forgetkit.contracts import Answer, Better, Chart, DataPart, Evidence, Measure, Series, Unit
from forgetkit.errors import InapplicableError

Weights = Mapping[str, Tensor]
Rows = list[dict[str, Any]]

_SPECTRUM = 0.99
"""The share of the singular values' sum that the hard rank accounts for."""


@dataclass(frozen=True)
class _ShownNumber:
    """How a number is shown."""

    label: str
    caption: str
    better: Better | None = None
    unit: Unit = "number"

    @property
    def meaning(self) -> str:
        """As the legend of a table says it."""
        return f"{self.caption[0].lower()}{self.caption[1:]}"


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
    samples: how many samples are looked at, drawn by the seed.
    part: which samples: test, train (those of the mega-batch) or val.
    fit: a mega-batch counts as fitted in the first epoch whose training accuracy is this share of its best one.

    Cost: one forward and one backward pass over the samples, and the singular values, for each mega-batch.

    Source: dormant units: Sokar et al., 2023; effective rank: Roy and Vetterli, 2007; as signs of plasticity: Dohare
    et al., 2024, and Lyle et al., 2023.
    """

    tau: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    samples: Annotated[int, Field(ge=1)] = 1000
    part: DataPart = "test"
    fit: Annotated[float, Field(gt=0, le=1)] = 0.95

    def analyze(self, evidence: Evidence) -> Answer:
        """Of each mega-batch whose model is kept, up to the one asked about; of a model by itself, once."""
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
                f"of the models up to mega-batch {previous[0]} one alone is kept, so there are no trends: runs keep "
                "them all with --keep-models all, those of an ablation with --keep all"
            )
        return self._answer(states, fits, [*remarks, *states[-1].remarks])

    def _state(self, evidence: Evidence, compared: _WeightComparison) -> _State:
        """All that is measured of one model."""
        samples = evidence.samples(self.part, self.samples)
        if not len(samples):
            raise InapplicableError(f"there are no samples of the part '{self.part}' to look at")
        reading = record_activations(evidence, samples)
        units = [_row_of_units(name, activity, self.tau) for name, activity in reading.activity.items()]
        layers = list(compared.by_layer(reading.gradients))
        numbers: dict[str, float | None] = {
            "dormant": sum(r["dormant"] for r in units) / sum(r["units"] for r in units) if units else None,
            **compared.overall(reading.gradients),
        }
        ranks, remarks = _ranks(reading)
        if not units:
            remarks.append("no layer reads what another one wrote: there are no hidden units")
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
        for key in ("fit_epochs", "fit_accuracy"):  # known of mega-batches whose models are gone, too
            series[key] = {n: fits[n][key] for n in sorted(fits)} or series[key]
        trends = {key: _slope(values) for key, values in series.items()}
        measures = {}
        for key, shown in _NUMBERS.items():
            measures[key] = Measure(
                _finite(last.numbers.get(key)),
                shown.better,
                shown.unit,
                meaning=shown.meaning,
                bounds=(0, 1 if shown.unit == "fraction" else None),
            )
            if key in _TRENDS:
                measures[f"{key}_trend"] = Measure(
                    trends[key], shown.better, shown.unit, meaning=f"how much {key} grows with each mega-batch"
                )
        lines = [_line(key, values) for key, values in series.items() if len(_drawn_values(values)) > 1]
        return Answer(
            numbers=measures,
            charts=[*lines, *([_bars(last)] if last.units else [])],
            details={
                "samples": last.samples,
                "mega_batches": [
                    {"mega_batch": s.mega_batch, **{k: _finite(s.numbers.get(k)) for k in _NUMBERS}, "ranks": s.ranks}
                    for s in states
                ],
                "trends": trends,
                "units": last.units,
                "dormant_by_layer": _over_time(states),
                "layers": last.layers,
            },
            remarks=remarks,
        )


@dataclass(frozen=True, eq=False)
class _State:
    """What was measured of one model."""

    mega_batch: int | None
    samples: int
    numbers: dict[str, float | None]
    units: Rows
    layers: Rows
    ranks: dict[str, float]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _WeightComparison:
    """Parameters beside those of other models; None where there are none to compare with."""

    weights: Weights
    initial: Weights | None
    previous: Weights | None

    def overall(self, gradients: Weights) -> dict[str, float | None]:
        """Norms and distances over all parameters."""
        return self._measured(list(self.weights), gradients)

    def by_layer(self, gradients: Weights) -> Iterator[dict[str, Any]]:
        """The same for each module that holds parameters, in the order in which they are registered."""
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
    """None where the other model has not the same parameters."""
    if others is None or any(name not in others or others[name].shape != t.shape for name, t in weights.items()):
        return None
    return _norm(t.double() - others[name].double() for name, t in weights.items())


def _row_of_units(name: str, activity: Tensor, tau: float) -> dict[str, Any]:
    """Without a division: in a layer that is silent altogether all are dormant."""
    return {
        "read_by": name,
        "units": len(activity),
        "dormant": int((activity <= tau * activity.mean()).sum()),
        "silent": int((activity == 0).sum()),
    }


def _ranks(reading: ActivationRecord) -> tuple[dict[str, float], list[str]]:
    """Ranks of the features, and what is to be said of them."""
    if reading.features is None:
        return {}, ["no effective rank: no linear layer at the end reads features that others wrote"]
    values = torch.linalg.svdvals(reading.features.double())
    most = min(reading.features.shape)
    remarks = []
    if len(reading.features) < reading.features.shape[1]:
        remarks.append(
            f"the effective rank is {most} at most, the number of samples: the features have "
            f"{reading.features.shape[1]} entries; give more samples"
        )
    return {"effective": _effective_rank(values), "hard": _hard_rank(values), "at_most": most}, remarks


def _effective_rank(values: Tensor) -> float:
    """The exponential of the entropy of the singular ``values`` as shares; 0 where all are zero."""
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
    return {n: v for n, value in values.items() if n is not None and (v := _finite(value)) is not None}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _slope(values: Mapping[int | None, float | None]) -> float | None:
    """By least squares, for each mega-batch; None of fewer than two."""
    known = _drawn_values(values)
    if len(known) < 2:
        return None
    at = [n - sum(known) / len(known) for n in known]
    return sum(x * y for x, y in zip(at, known.values(), strict=True)) / sum(x * x for x in at)


def _line(key: str, values: Mapping[int | None, float | None]) -> Chart:
    shown = _NUMBERS[key]
    places = [n for n in values if n is not None]
    return Chart(
        name=key,
        caption=shown.caption,
        x_label="mega-batch",
        y_label=shown.label,
        series=[Series(key.replace("_", " "), places, [_finite(values[n]) for n in places])],
        unit=shown.unit,
    )


def _bars(state: _State) -> Chart:
    return Chart(
        name="dormant_layers",
        caption="Dormant units by the layer that reads them",
        x_label="read by",
        y_label="share of the units",
        series=[
            Series("dormant", [r["read_by"] for r in state.units], [r["dormant"] / r["units"] for r in state.units])
        ],
        kind="bars",
        unit="fraction",
    )


def _over_time(states: Sequence[_State]) -> dict[str, list[int]]:
    """Dormant units by the layer that reads them, one number for each model."""
    found: dict[str, list[int]] = {}
    for state in states:
        for row in state.units:
            found.setdefault(row["read_by"], []).append(row["dormant"])
    return found
