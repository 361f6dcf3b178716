"""Redundancy: accuracy without the least important entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field

from forgetkit.builtin.analyses._answers import bars, fraction
from forgetkit.builtin.analyses.corruption import corrupt_samples
from forgetkit.contracts import Answer, Evidence, Measure, Rounding, Scope, Series
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
    corrupted: test samples to corrupt, at most; 0: none, and there is no robust accuracy.

    Cost: the criterion's; two passes over the samples; two over the corrupted ones for each of 15 corruptions and 5
    severities, which are made once for both networks.

    Source: section A.7 and table 10 of Ramkumar et al., 2023, which measures after the first of 8 mega-batches and
    does not name the criterion. Its 8,939,169 entries left of 11,173,962 are 0.8 of all, rounded down.
    """

    importance: str = "snip"
    fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    params: Scope = "all"
    round: Rounding = "up"
    samples: Annotated[int, Field(ge=1)] | None = 2000
    corrupted: Annotated[int, Field(ge=0)] = 200

    test_options: ClassVar[Mapping[str, Any]] = {"corrupted": 2}

    def analyze(self, evidence: Evidence) -> Answer:
        """Measure the network as it is, and a copy with zeros."""
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
        left = parameters - sum(count for count, _ in zeroed.values())
        numbers = {
            "parameters": Measure(parameters, unit="count", meaning="entries of all parameters", bounds=(0, None)),
            "parameters_left": Measure(
                left, unit="count", meaning="those that were not set to zero", bounds=(0, parameters)
            ),
        }
        for name, network in networks.items():
            for part, where in _WHERE.items():
                meaning = f"accuracy {where}, {_WHICH[name]}"
                numbers[f"{name}_{part}"] = fraction(network.accuracy.get(part), meaning, "higher")
        details = {
            "importance": self.importance,
            "threshold": selected.threshold,
            **{name: network.details for name, network in networks.items()},
            "zeroed": {name: list(counts) for name, counts in zeroed.items()},
        }
        series = [Series(name, list(of.accuracy), list(of.accuracy.values())) for name, of in networks.items()]
        shares = [count / entries if entries else None for count, entries in zeroed.values()]
        layers = Series("zeroed", list(zeroed), shares)
        caption = "Accuracy of the network as it is, and without its least important entries."
        charts = [
            bars("accuracy", caption, "samples", "accuracy", *series),
            bars("zeroed", "The part of each layer that is set to zero.", "layer", "set to zero", layers),
        ]
        return Answer(numbers, charts, details, remarks)

    def _corrupted(self, evidence: Evidence, networks: Mapping[str, ZeroedNetwork]) -> list[str]:
        """Measure all networks on each corruption, which is made once; return a remark if there is none."""
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
    """A network (None for the evidence's own) and its accuracies; on corrupted samples, at each severity."""

    model: nn.Module | None
    accuracy: dict[str, float] = field(default_factory=dict)
    by_corruption: dict[str, list[float]] = field(default_factory=dict)

    @property
    def details(self) -> dict[str, object]:
        """Accuracies, and those on other samples as a share of the training accuracy: the brackets of table 10."""
        train = self.accuracy["train"]
        others = {part: value for part, value in self.accuracy.items() if part != "train"}
        ratios = {f"{part}_to_train": value / train if train else None for part, value in others.items()}
        return {**self.accuracy, **ratios, "corruptions": self.by_corruption}


def _zero_masked(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Set masked entries to zero, in place; return the counts of zeroed and of all entries by parameter."""
    zeroed = {}
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(mask.to(parameters[name].device), 0)
            zeroed[name] = (int(mask.sum()), mask.numel())
    return zeroed
