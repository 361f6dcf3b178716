"""What a network loses without its least important entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field

from forgetkit.builtin.analyses.corruption import corrupt_samples
from forgetkit.contracts import Answer, Chart, Evidence, Measure, Rounding, Scope, Series
from forgetkit.errors import InapplicableError
from forgetkit.unlearning import select

if TYPE_CHECKING:
    from torch import Tensor, nn

_WHERE = {"train": "on training samples", "test": "on test samples", "robust": "on corrupted test samples"}
_WHICH = {"dense": "of the network as it is", "sparse": "after its least important entries were set to zero"}


@dataclass(frozen=True)
class Redundancy:
    """What the network loses when its least important entries are set to zero, without training it again.

    Formula: θ ← M ⊙ θ, with M = 0 for fraction · N of the N scored entries, those with the lowest scores by one
    threshold over all of them.

    importance: a criterion's SPEC; the scores are taken on training samples.
    fraction: share of the scored entries that is set to zero, 0 to 1.
    params: which parameters are scored: all, weights, or conv-linear.
    round: fraction · N up to a whole number, or down.
    samples: test samples, and training samples, at most; none: all.
    corrupted: of the test samples, those that are corrupted, at most; 0: none, and there is no robust accuracy.

    Cost: the criterion's; two passes over the samples; two over the corrupted ones for each of 15 corruptions and 5
    severities, which are made once for both networks.

    Source: section A.7 and table 10 of Ramkumar et al., 2023, which asks after the first of 8 mega-batches and does not
    name the criterion. Its 8,939,169 entries left of 11,173,962 are 0.8 of all, rounded down.
    """

    importance: str = "snip"
    fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    params: Scope = "all"
    round: Rounding = "up"
    samples: Annotated[int, Field(ge=1)] | None = 2000
    corrupted: Annotated[int, Field(ge=0)] = 200

    examined_with: ClassVar[Mapping[str, Any]] = {"corrupted": 2}

    def analyze(self, evidence: Evidence) -> Answer:
        """The network as it is beside its twin with zeros."""
        scores = evidence.scores(self.importance, self.params)
        selected = select(scores, self.fraction, evidence.seeds.within("ties"), rounding=self.round)
        sparse = evidence.copy_model()
        zeroed = _zero_masked(sparse, selected.masks)
        networks = {"dense": ZeroedNetwork(None), "sparse": ZeroedNetwork(sparse)}
        for network in networks.values():
            for part in ("train", "test"):
                network.accuracy[part] = evidence.accuracy(evidence.samples(part, self.samples), network.model)
        remarks = self._corrupted(evidence, networks)
        parameters = sum(parameter.numel() for parameter in evidence.model.parameters())
        return Answer(
            numbers={
                "parameters": Measure(parameters, unit="count", meaning="entries of all parameters", bounds=(0, None)),
                "parameters_left": Measure(
                    parameters - sum(count for count, _ in zeroed.values()),
                    unit="count",
                    meaning="those that were not set to zero",
                    bounds=(0, parameters),
                ),
                **{
                    f"{name}_{part}": Measure(
                        network.accuracy.get(part),
                        "higher",
                        "fraction",
                        meaning=f"accuracy {_WHERE[part]}, {_WHICH[name]}",
                        bounds=(0, 1),
                    )
                    for name, network in networks.items()
                    for part in ("train", "test", "robust")
                },
            },
            charts=[_bars(networks), _layers(zeroed)],
            details={
                "importance": self.importance,
                "threshold": selected.threshold,
                **{name: network.details for name, network in networks.items()},
                "zeroed": {name: list(counts) for name, counts in zeroed.items()},
            },
            remarks=remarks,
        )

    def _corrupted(self, evidence: Evidence, networks: Mapping[str, ZeroedNetwork]) -> list[str]:
        """Judge all networks on each corruption, made once; a line where there is none."""
        if not self.corrupted:
            return []
        count = self.corrupted if self.samples is None else min(self.corrupted, self.samples)
        try:
            for name, _, samples in corrupt_samples(evidence, samples=count):
                right = dict.fromkeys(networks, 0)
                for inputs, labels in samples.batches():
                    for which, network in networks.items():
                        answers = evidence.outputs([inputs], network.model).argmax(1)
                        right[which] += int((answers == labels.cpu()).sum())
                for which, network in networks.items():
                    network.by_corruption.setdefault(name, []).append(right[which] / len(samples))
        except InapplicableError as error:
            return [f"there is no robust accuracy: {error}"]
        for network in networks.values():
            network.accuracy["robust"] = fmean(map(fmean, network.by_corruption.values()))
        return []


@dataclass
class ZeroedNetwork:
    """A network, None for the one asked about, and its accuracies; of corrupted samples, at each severity."""

    model: nn.Module | None
    accuracy: dict[str, float] = field(default_factory=dict)
    by_corruption: dict[str, list[float]] = field(default_factory=dict)

    @property
    def details(self) -> dict[str, object]:
        """Beside accuracies, what there is of that in training on other samples: the brackets of table 10."""
        train = self.accuracy["train"]
        others = {part: value for part, value in self.accuracy.items() if part != "train"}
        ratios = {f"{part}_to_train": value / train if train else None for part, value in others.items()}
        return {**self.accuracy, **ratios, "corruptions": self.by_corruption}


def _zero_masked(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Set what is masked to zero, in place; how many entries that was and of how many, by parameter."""
    zeroed = {}
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(mask.to(parameters[name].device), 0)
            zeroed[name] = (int(mask.sum()), mask.numel())
    return zeroed


def _bars(networks: Mapping[str, ZeroedNetwork]) -> Chart:
    series = [Series(name, list(of.accuracy), list(of.accuracy.values())) for name, of in networks.items()]
    caption = "Accuracy of the network as it is, and without its least important entries."
    return Chart("accuracy", caption, "samples", "accuracy", series, kind="bars", unit="fraction")


def _layers(zeroed: Mapping[str, tuple[int, int]]) -> Chart:
    """Where the entries are that were least important."""
    share = [count / entries if entries else None for count, entries in zeroed.values()]
    caption = "The part of each layer that is set to zero."
    series = [Series("zeroed", list(zeroed), share)]
    return Chart("zeroed", caption, "layer", "set to zero", series, kind="bars", unit="fraction")
