"""Flatness: how noise on the parameters changes accuracy and loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from forgetkit.builtin.analyses._answers import all_finite, finite, fraction, mean_height
from forgetkit.builtin.analyses._listed import split_list
from forgetkit.builtin.analyses._outputs import diverged, require_samples
from forgetkit.contracts import Answer, Chart, Evidence, LabelledSamples, Measure, Series
from forgetkit.errors import InapplicableError, OptionError
from forgetkit.unlearning.batchnorm import refresh_bn_stats, tracking_layers

_SIGMAS = {"relative": (0.05, 0.1, 0.2, 0.4, 0.8), "absolute": (0.005, 0.01, 0.02, 0.04, 0.08)}

Sigma = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Sigmas = Annotated[tuple[Sigma, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Flatness:
    """How much accuracy and loss suffer from Gaussian noise on all parameters.

    Formula: θ' = θ ± σ · r · z with z ~ N(0, 1) for each entry, where r = 1 (absolute) or the root mean square of the
    tensor that the entry belongs to (relative). A(σ) and L(σ) are accuracy and mean cross-entropy, averaged over the
    draws z and, so that slopes cancel, over both signs. With s the smallest σ above 0 and c = 1 / classes:
        drop = A(0) - the mean of A from σ = 0 to the greatest, on straight lines between those of the grid;
        half = the σ where A first is halfway between A(0) and c, on the same lines;
        sharpness = 2 (L(s) - L(0)) / s², for a small s the trace of the Hessian (relative: in units of r).

    scale: what σ is measured in.
        relative: the size of each tensor, so that weights whose scale normalisation takes back count alike;
        absolute: the same for every entry. A network with larger weights seems flatter.
    sigmas: the grid; 0 is always included. none is 0.05, 0.1, 0.2, 0.4, 0.8 (relative) or a tenth of that (absolute).
    repeats: draws of the noise; each is used with both signs at every σ.
    bn_stats: running statistics of batch normalisation under noise.
        keep: those of the weights without noise;
        recalibrate: measured again on the training samples at each draw, and at σ = 0 too.
    part: the samples to measure on: train (the paper) or test.
    samples: how many at most, or none for all.

    Source: figure 7 of Ramkumar et al., 2023, after Alabdulmohsin et al., 2021: independent noise on all parameters,
    training accuracy. Not given: σ, whether it is relative, running statistics, repeats.
    """

    scale: Literal["relative", "absolute"] = "relative"
    sigmas: Annotated[Sigmas | None, BeforeValidator(split_list)] = None
    repeats: Annotated[int, Field(ge=1)] = 3
    bn_stats: Literal["keep", "recalibrate"] = "keep"
    part: Literal["train", "test"] = "train"
    samples: Annotated[int, Field(ge=1)] | None = 1000

    test_options: ClassVar[Mapping[str, Any]] = {"sigmas": (0.1, 0.5), "repeats": 2}

    def __post_init__(self) -> None:
        if not any(self._grid):
            raise ValueError("sigmas holds no noise above 0; give one at least")

    @property
    def _grid(self) -> tuple[float, ...]:
        return _SIGMAS[self.scale] if self.sigmas is None else self.sigmas

    def analyze(self, evidence: Evidence) -> Answer:
        """Measure accuracy and loss by the size of the noise."""
        samples = require_samples(evidence, self.part, self.samples)
        bn_samples = evidence.samples("train", self.samples) if self.bn_stats == "recalibrate" else None
        perturbed = Perturbed(evidence, evidence.copy_model(), self.scale == "relative", bn_samples)
        rows: dict[float, list[Tensor]] = {sigma: [] for sigma in sorted({0.0, *self._grid})}
        for repeat in range(self.repeats):
            noise = perturbed.noise(repeat)
            for sigma, row in rows.items():
                if not sigma and repeat:  # without noise, all repeats are the same
                    continue
                models = (perturbed.by(signed, noise) for signed in ([sigma, -sigma] if sigma else [sigma]))
                found = [evidence.outputs(samples, model) for model in models]
                if not sigma and diverged(found[0]):
                    raise InapplicableError("the network's outputs are not finite without any noise: train it again")
                row.append(torch.stack([_accuracy_and_loss(outputs, samples.labels) for outputs in found]).mean(0))
        return self._answer(rows, len(samples), 1 / len(evidence.classes))

    def _answer(self, rows: Mapping[float, Sequence[Tensor]], count: int, chance: float) -> Answer:
        accuracy, loss = (
            _Curve.of({sigma: torch.stack(list(row))[:, at] for sigma, row in rows.items()}) for at in (0, 1)
        )
        half = accuracy.crosses((accuracy.means[0] + chance) / 2)
        sharpness = 2 * (loss.means[1] - loss.means[0]) / loss.sigmas[1] ** 2
        height = mean_height(dict(zip(accuracy.sigmas, accuracy.means, strict=True)))
        numbers = {
            "drop": fraction(
                accuracy.means[0] - height,
                "accuracy without noise less its mean over the grid of noise",
                "lower",
                bounds=(-1, 1),
            ),
            "half": Measure(
                half, "higher", meaning="the noise σ at which accuracy is halfway down to chance", bounds=(0, None)
            ),
            "sharpness": Measure(
                finite(sharpness),
                "lower",
                meaning="curvature of the loss under noise: 2 (L(σ) − L(0)) / σ² at the smallest σ",
            ),
        }
        curves = {"accuracy": accuracy, "loss": loss}
        details = {
            "part": self.part,
            "samples": count,
            "sigmas": accuracy.sigmas,
            **{name: all_finite(curve.means) for name, curve in curves.items()},
            **{f"{name}_spread": all_finite(curve.spread) for name, curve in curves.items()},
        }
        remarks = []
        if half is None:
            remarks.append(f"half is none: the accuracy is never halfway down to chance up to σ = {loss.sigmas[-1]:g}")
        if not math.isfinite(sharpness):
            remarks.append(f"sharpness is none: the loss is not finite at σ = 0 or {loss.sigmas[1]:g}")
        if self.bn_stats == "recalibrate":
            remarks.append("running statistics are recalibrated at σ = 0 too: its accuracy is not the clean one")
        return Answer(numbers, [self._chart(name, curve) for name, curve in curves.items()], details, remarks)

    def _chart(self, what: str, curve: _Curve) -> Chart:
        part = {"train": "training", "test": "test"}[self.part]
        unit = {"relative": "root mean squares of a tensor", "absolute": "absolute"}[self.scale]
        return Chart(
            what,
            f"{part.capitalize()} {what} under Gaussian noise on all parameters ({self.repeats} draws)",
            f"noise σ ({unit})",
            f"{part} {what}",
            [Series(what, curve.sigmas, all_finite(curve.means), all_finite(curve.spread))],
            unit="fraction" if what == "accuracy" else "number",
        )


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A copy of a model whose parameters are overwritten for each σ."""

    evidence: Evidence
    copy: nn.Module
    relative: bool
    bn_samples: LabelledSamples | None
    """For the running statistics of batch normalisation, or None to keep them."""

    def __post_init__(self) -> None:
        if self.bn_samples is not None and not tracking_layers(self.copy):
            raise InapplicableError(
                f"bn-stats=recalibrate: {type(self.evidence.model).__name__} has no batch normalisation with running "
                "statistics; use keep"
            )

    def noise(self, repeat: int) -> dict[str, Tensor]:
        """r · z of each parameter, drawn by its name: equal for all networks with such a parameter."""
        noise = {}
        for name, clean in self._clean():
            drawn = torch.randn(clean.shape, generator=self.evidence.seeds.torch("noise", name, repeat))
            noise[name] = drawn.to(clean.device) * (clean.float().square().mean().sqrt() if self.relative else 1.0)
        return noise

    @torch.no_grad()
    def by(self, sigma: float, noise: Mapping[str, Tensor]) -> nn.Module:
        """The copy at θ + σ · noise."""
        written = dict(self.copy.named_parameters())
        for name, clean in self._clean():
            written[name].copy_(clean + sigma * noise[name])
        if self.bn_samples is not None:
            try:
                seed = self.evidence.seeds.number("recalibrate")
                refresh_bn_stats(self.copy, "recalibrate", self.bn_samples.batches(), [], seed)
            except OptionError as error:
                raise InapplicableError(str(error)) from error
        return self.copy

    def _clean(self) -> list[tuple[str, Tensor]]:
        parameters = self.evidence.model.named_parameters()
        return [(name, p.detach()) for name, p in parameters if p.is_floating_point()]


def _accuracy_and_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Accuracy and mean cross-entropy, float64; NaN outputs count as wrong and make the loss NaN."""
    outputs = outputs.double()
    right = (outputs.argmax(1) == labels) & ~outputs.isnan().any(1)
    return torch.stack([right.double().mean(), nn.functional.cross_entropy(outputs, labels)])


@dataclass(frozen=True)
class _Curve:
    """Means over repeats and their deviations, by σ from 0."""

    sigmas: Sequence[float]
    means: Sequence[float]
    spread: Sequence[float]

    @classmethod
    def of(cls, rows: Mapping[float, Tensor]) -> _Curve:
        """From float64 values of the repeats. The deviation of a single one is NaN; without noise it is 0."""
        spread = [row.std().item() if len(row) > 1 else math.nan if sigma else 0.0 for sigma, row in rows.items()]
        return cls(list(rows), [row.mean().item() for row in rows.values()], spread)

    def crosses(self, level: float) -> float | None:
        """The first σ at which the curve falls to ``level``, on straight lines; None if it never does."""
        for (a, before), (b, after) in pairwise(zip(self.sigmas, self.means, strict=True)):
            if before > level >= after:
                return a + (b - a) * (before - level) / (before - after)
        return None
