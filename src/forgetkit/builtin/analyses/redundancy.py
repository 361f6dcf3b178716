"""What a network loses without its least important entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from forgetkit.contracts import Answer, Chart, Evidence, Measure, Rounding, Scope, Series
from forgetkit.forgetting import select

if TYPE_CHECKING:
    from torch import Tensor, nn


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
    corrupted: test samples that are corrupted, at most; 0: none of them, and there is no robust accuracy.

    Cost: the criterion's; two passes over the samples; with images, two over each corruption of the corrupted ones.

    Source: section A.7 and table 10 of Ramkumar et al., 2023, which asks after the first of 8 mega-batches and does not
    name the criterion. Its 8,939,169 entries left of 11,173,962 are 0.8 of all, rounded down.
    """

    importance: str = "snip"
    fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    params: Scope = "all"
    round: Rounding = "up"
    samples: Annotated[int, Field(ge=1)] | None = 10_000
    corrupted: Annotated[int, Field(ge=0)] = 1000

    def analyze(self, evidence: Evidence) -> Answer:
        """The network as it is beside its twin with zeros."""
        scores = evidence.scores(self.importance, self.params)
        masks, threshold = select(scores, self.fraction, evidence.seeds.within("ties"), rounding=self.round)
        sparse = evidence.twin()
        zeroed = _emptied(sparse, masks)
        parameters = sum(parameter.numel() for parameter in evidence.model.parameters())
        dense = self._judged(evidence, None)
        without = self._judged(evidence, sparse)
        return Answer(
            numbers={
                "parameters": Measure(parameters, unit="count"),
                "parameters_left": Measure(parameters - sum(count for count, _ in zeroed.values()), unit="count"),
                **_numbers("dense", dense),
                **_numbers("sparse", without),
            },
            charts=[_bars(dense, without), _layers(zeroed)],
            details={
                "importance": self.importance,
                "threshold": threshold,
                "dense": {**dense, **_ratios(dense)},
                "sparse": {**without, **_ratios(without)},
                "zeroed": {name: list(counts) for name, counts in zeroed.items()},
            },
        )

    def _judged(self, evidence: Evidence, model: nn.Module | None) -> dict[str, float | None]:
        """Accuracies, by what they are of."""
        return {
            "train": evidence.accuracy(evidence.samples("train", self.samples), model),
            "test": evidence.accuracy(evidence.samples("test", self.samples), model),
            "robust": None,
        }


def _emptied(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Set what is masked to zero, in place; how many entries that was and of how many, by parameter."""
    zeroed = {}
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(mask.to(parameters[name].device), 0)
            zeroed[name] = (int(mask.sum()), mask.numel())
    return zeroed


def _numbers(which: str, accuracy: Mapping[str, float | None]) -> dict[str, Measure]:
    return {f"{which}_{part}": Measure(value, "higher", "fraction") for part, value in accuracy.items()}


def _ratios(accuracy: Mapping[str, float | None]) -> dict[str, float | None]:
    """What there is elsewhere of the accuracy in training."""
    train = accuracy["train"]
    return {f"{part}_to_train": _over(accuracy[part], train) for part in accuracy if part != "train"}


def _over(value: float | None, train: float | None) -> float | None:
    return value / train if value is not None and train else None


def _bars(dense: Mapping[str, float | None], sparse: Mapping[str, float | None]) -> Chart:
    parts = [part for part, value in dense.items() if value is not None]
    series = [Series(name, parts, [of[part] for part in parts]) for name, of in (("dense", dense), ("sparse", sparse))]
    caption = "Accuracy of the network as it is, and without its least important entries."
    return Chart("accuracy", caption, "samples", "accuracy", series, kind="bars", unit="fraction")


def _layers(zeroed: Mapping[str, tuple[int, int]]) -> Chart:
    """Where the entries are that were least important."""
    share = [count / entries if entries else None for count, entries in zeroed.values()]
    caption = "The part of each layer that is set to zero."
    return Chart("zeroed", caption, "layer", "set to zero", [Series("zeroed", list(zeroed), share)], unit="fraction")
