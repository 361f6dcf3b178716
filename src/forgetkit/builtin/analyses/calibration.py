"""Calibration: how far confidence is from accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.builtin.analyses._answers import all_finite, bars, fraction, lines
from forgetkit.builtin.analyses._outputs import diverged, require_samples
from forgetkit.contracts import Answer, Chart, Evidence, Measure, Series
from forgetkit.errors import InapplicableError

COLDEST, HOTTEST = 0.01, 100.0
"""The range in which the temperature is fitted."""


@dataclass(frozen=True)
class Calibration:
    """How far a network's confidence is from its accuracy, before and after a temperature is fitted.

    Formula: the confidence of a sample is the highest of its predicted probabilities, softmax(z). In a bin B of samples
    gap(B) = |accuracy(B) - mean confidence(B)|, and
        ece = Σ |B| / n · gap(B), over bins of equal width; mce = the largest gap of a bin that is not empty;
        adaptive_ece = the same sum over bins of equally many samples, where equal confidences share a bin;
        nll = mean of -log p(label); brier = mean of Σ over classes (p - [class is the label])², from 0 to 2;
        overconfidence = mean confidence - accuracy; temperature = the T > 0 of the least nll of softmax(z / T) on the
        validation part, and ece_scaled = ece of softmax(z / T).

    bins: how many bins. Each holds its lower edge, and the last one confidence 1 too.
    samples: test samples at most, or none for all.

    Source: figure 6 of Ramkumar et al., 2023, after Naeini et al., 2015. The number of bins is not given; 10 is the
    default of the library used there (netcal). Maximum error: Naeini et al.; bins of equal mass: Nguyen and O'Connor,
    2015; temperature: Guo et al., 2017.
    """

    bins: Annotated[int, Field(ge=1, le=1000)] = 10
    samples: Annotated[int, Field(ge=1)] | None = None

    def analyze(self, evidence: Evidence) -> Answer:
        """Measure the errors of calibration; draw reliability, gaps and confidence."""
        samples = require_samples(evidence, "test", self.samples)
        found = _Predictions(_usable(evidence.outputs(samples)), samples.labels)
        numbers = {
            "ece": _error(
                found.ece(self.bins),
                f"expected calibration error: mean gap of accuracy and confidence, {self.bins} bins",
            ),
            "mce": _error(found.mce(self.bins), "maximum calibration error: the largest gap of a bin"),
            "adaptive_ece": _error(found.adaptive_ece(self.bins), "the ece over bins of equally many samples"),
            "nll": _above_zero(found.nll, "negative log-likelihood: mean cross entropy, in nats", None),
            "brier": _above_zero(
                found.brier,
                "Brier score: mean squared distance of the predicted probabilities from the label, 0 to 2",
                2,
            ),
            "overconfidence": fraction(
                found.confidence.mean().item() - found.accuracy,
                "mean confidence less accuracy; above 0 the network is too sure",
                bounds=(-1, 1),
            ),
        }
        binned = found.binned(self.bins)
        details = {"samples": len(samples), "accuracy": found.accuracy, "bins": _table(binned)}
        remarks = []
        if found.nll is None:
            remarks.append("there is no nll: the network gives the class of a sample the logit -inf")
        try:
            temperature = _fit_temperature(evidence)
        except InapplicableError as error:
            remarks.append(f"no temperature was fitted: {error}")
        else:
            scaled = _Predictions(found.logits / temperature, found.labels)
            meaning = "what the logits are divided by for the least nll; above 1 the network is too sure"
            numbers["temperature"] = Measure(temperature, meaning=meaning)
            numbers["ece_scaled"] = _error(scaled.ece(self.bins), "the ece at that temperature")
            details |= {"nll_scaled": scaled.nll, "brier_scaled": scaled.brier, "mce_scaled": scaled.mce(self.bins)}
            if temperature in (COLDEST, HOTTEST):
                remarks.append(
                    f"the temperature is {temperature:g}, the end of the range: the nll has no minimum inside"
                )
        return Answer(numbers, _charts(binned), details, remarks)


@dataclass(frozen=True, eq=False)
class _ReliabilityBins:
    """Samples by bin, each a float64 tensor ``(bins,)``; the means of an empty bin are NaN."""

    count: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def gaps(self) -> Tensor:
        """0 where a bin is empty."""
        return (self.accuracy - self.confidence).abs().nan_to_num()


@dataclass(frozen=True, eq=False)
class _Predictions:
    """Logits ``(n, classes)`` in float64, labels int64 ``(n,)``, and what follows from both."""

    logits: Tensor
    labels: Tensor

    @cached_property
    def probabilities(self) -> Tensor:
        return self.logits.softmax(1)

    @cached_property
    def confidence(self) -> Tensor:
        return self.probabilities.amax(1)

    @cached_property
    def right(self) -> Tensor:
        return (self.logits.argmax(1) == self.labels).double()

    @property
    def accuracy(self) -> float:
        return self.right.mean().item()

    @property
    def nll(self) -> float | None:
        """None if a label has the probability 0."""
        loss = torch.nn.functional.cross_entropy(self.logits, self.labels).item()
        return loss if math.isfinite(loss) else None

    @property
    def brier(self) -> float:
        truth = torch.nn.functional.one_hot(self.labels, self.logits.shape[1])
        return (self.probabilities - truth).square().sum(1).mean().item()

    def binned(self, bins: int) -> _ReliabilityBins:
        """In bins of equal width."""
        inner = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
        return self._by(torch.bucketize(self.confidence, inner, right=True), bins)

    def ece(self, bins: int) -> float:
        return _mean_gap(self.binned(bins))

    def mce(self, bins: int) -> float:
        return self.binned(bins).gaps.max().item()

    def adaptive_ece(self, bins: int) -> float:
        """Samples of equal confidence share the bin of their middle rank, so the order of samples changes nothing."""
        _, group, size = self.confidence.unique(return_inverse=True, return_counts=True)
        middle = size.cumsum(0) - size / 2
        return _mean_gap(self._by((middle * bins / len(self.labels)).long()[group], bins))

    def _by(self, places: Tensor, bins: int) -> _ReliabilityBins:
        count, confidence, right = (
            torch.bincount(places, weights, bins).double() for weights in (None, self.confidence, self.right)
        )
        return _ReliabilityBins(count, confidence / count, right / count)


def _mean_gap(binned: _ReliabilityBins) -> float:
    return (binned.gaps * binned.count).sum().item() / binned.count.sum().item()


def _usable(logits: Tensor) -> Tensor:
    if diverged(logits):
        raise InapplicableError("the network's outputs are not finite, so it has no confidence: train it again")
    return logits.double()


def _fit_temperature(evidence: Evidence) -> float:
    """The temperature of the least NLL on the validation part.

    NLL is convex in 1 / T, and its slope is the mean of the expected logit less the label's.
    """
    from scipy.optimize import brentq

    samples = require_samples(evidence, "val")
    logits = _usable(evidence.outputs(samples))
    of_labels = logits.gather(1, samples.labels[:, None])
    if bool(of_labels.isinf().any()):
        raise InapplicableError(
            "the network gives the class of a validation sample the logit -inf: the nll is infinite at each temperature"
        )

    def slope(inverse: float) -> float:
        terms = (logits * inverse).softmax(1) * (logits - of_labels)
        return terms.where(logits.isfinite(), 0).sum(1).mean().item()  # a masked class (-inf) adds nothing

    if slope(1 / COLDEST) <= 0:
        return COLDEST
    if slope(1 / HOTTEST) >= 0:
        return HOTTEST
    return float(1 / brentq(slope, 1 / HOTTEST, 1 / COLDEST))


def _error(value: float, meaning: str) -> Measure:
    return fraction(value, meaning, "lower")


def _above_zero(value: float | None, meaning: str, highest: float | None) -> Measure:
    return Measure(value, "lower", meaning=meaning, bounds=(0, highest))


def _table(binned: _ReliabilityBins) -> list[Mapping[str, Any]]:
    bins = len(binned.count)
    columns = (binned.count.tolist(), all_finite(binned.confidence.tolist()), all_finite(binned.accuracy.tolist()))
    return [
        {"from": at / bins, "to": (at + 1) / bins, "samples": int(count), "confidence": sure, "accuracy": right}
        for at, (count, sure, right) in enumerate(zip(*columns, strict=True))
    ]


def _charts(binned: _ReliabilityBins) -> list[Chart]:
    """Each bin stands at its middle, so that runs have the same places."""
    bins = len(binned.count)
    middles = [(at + 0.5) / bins for at in range(bins)]
    ranges = [f"{100 * at / bins:.3g}–{100 * (at + 1) / bins:.3g}" for at in range(bins)]
    gaps = binned.confidence - binned.accuracy
    return [
        lines(
            "reliability",
            "Accuracy by confidence, each bin at its middle; below the diagonal a network is too sure",
            "confidence",
            "accuracy",
            Series("accuracy", middles, all_finite(binned.accuracy.tolist())),
            diagonal=True,
        ),
        lines(
            "gap",
            "Mean confidence less accuracy of each bin; above 0 a network is too sure",
            "confidence (middle of the bin, from 0 to 1)",
            "confidence - accuracy",
            Series("gap", middles, all_finite(gaps.tolist())),
        ),
        bars(
            "confidence",
            "How many test samples are predicted with which confidence",
            "confidence in per cent",
            "share of the samples",
            Series("share", ranges, (binned.count / binned.count.sum()).tolist()),
        ),
    ]
