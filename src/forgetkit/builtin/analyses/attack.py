"""Accuracy on images that an attack has changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from forgetkit.builtin.analyses._answers import fraction, lines, mean_height
from forgetkit.builtin.analyses._listed import parse_fraction, split_list
from forgetkit.builtin.analyses._outputs import predictions, require_samples
from forgetkit.builtin.analyses._pixels import require_images
from forgetkit.contracts import Answer, Evidence, LabelledSamples, Series
from forgetkit.errors import InapplicableError
from forgetkit.seeding import Seeds, seeded_rng

_LEVELS = 255
"""Steps between black and white."""

_STRENGTHS = {"linf": (1 / _LEVELS, 2 / _LEVELS, 4 / _LEVELS, 8 / _LEVELS), "l2": (0.125, 0.25, 0.5, 1.0)}
_NORMS = {"linf": "L∞", "l2": "L2"}

Strength = Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, allow_inf_nan=False)]
StepSize = Annotated[float, BeforeValidator(parse_fraction), Field(gt=0, allow_inf_nan=False)]
Strengths = Annotated[tuple[Strength, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Attack:
    """Accuracy on images that projected gradient descent (PGD) has changed to mislead the network.

    Formula: x ← clip(P(x + α · d)) for a number of steps, where d = sign(g) (linf) or g / ‖g‖₂ (l2), g is the gradient
    of the cross-entropy in the image, P the projection onto the ball of radius ε around the image as it was, and clip
    keeps pixels in [0, 1]. Units are those of pixels, before the network's own normalisation. A sample counts as right
    if the network is right on the clean image and after each restart. area = the mean accuracy between strength 0 and
    the greatest, on straight lines between the strengths.

    norm: how a change is measured.
        linf: by the greatest change of a pixel;
        l2: by the root of the sum of all squared changes.
    strengths: the radii ε, numbers or texts such as "8/255"; strength 0, clean accuracy, is always included. none is
        1, 2, 4 and 8 / 255 for linf, and 0.125, 0.25, 0.5 and 1 for l2.
    steps: gradient steps per restart.
    step_size: α. none is 2.5 ε / steps, enough to cross the ball.
    restarts: attacks of each image; the worst counts.
    samples: test samples at most, or none for all.
    random_start: start at a random point of the ball (linf: uniform; l2: uniform direction, uniform length).

    Cost: steps × restarts × strengths forward and backward passes over the samples that the network gets right.

    Source: figure 3 (left) of Ramkumar et al., 2023, with PGD-10 of Madry et al., 2018. Strengths, norm, step size and
    random start are not given; these are torchattacks' defaults at ε = 8/255 (α = 2/255, 10 steps, random start).
    """

    norm: Literal["linf", "l2"] = "linf"
    strengths: Annotated[Strengths | None, BeforeValidator(split_list)] = None
    steps: Annotated[int, Field(ge=1)] = 10
    step_size: StepSize | None = None
    restarts: Annotated[int, Field(ge=1)] = 1
    samples: Annotated[int, Field(ge=1)] | None = 500
    random_start: bool = True

    test_options: ClassVar[Mapping[str, Any]] = {"strengths": (0.1,), "steps": 2}

    def __post_init__(self) -> None:
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts={self.restarts} without a random start are all the same; use restarts=1")
        if self.norm == "linf" and max(self._radii, default=0) > 1:
            raise ValueError('strengths are in units of pixels, from 0 to 1: write "8/255" for 8 levels of 255')
        if len({_key(self.norm, radius) for radius in self._radii}) < len(self._radii):
            raise ValueError("two strengths are the same to six digits; give each once")

    @property
    def _radii(self) -> tuple[float, ...]:
        given = _STRENGTHS[self.norm] if self.strengths is None else self.strengths
        return tuple(map(parse_fraction, given))

    def analyze(self, evidence: Evidence) -> Answer:
        """Measure accuracy by strength."""
        why = "strengths are those of pixels in [0, 1]"
        require_images(evidence, why, f"{why}, and the samples are no images")
        samples = require_samples(evidence, "test", self.samples)
        clean = predictions(evidence.outputs(samples)) == samples.labels
        accuracy, blind = {0.0: clean.double().mean().item()}, 0
        # Without gradients of its own, the copy keeps no trace of a backward pass, which stops at the input.
        model = evidence.copy_model().requires_grad_(False)
        with seeded_rng(evidence.seeds.number("model")), torch.autocast(evidence.device.type, enabled=False):
            for radius in sorted(filter(None, self._radii)):
                right, unmoved = self._withstood(radius, model, samples, clean, evidence.seeds)
                accuracy[radius] = right.double().mean().item()
                blind = max(blind, unmoved)
        return self._answer(accuracy, len(samples), blind)

    def _descent(self, radius: float) -> Descent:
        step = 2.5 * radius / self.steps if self.step_size is None else float(parse_fraction(self.step_size))
        return Descent(self.norm, radius, step, self.steps)

    def _withstood(
        self, radius: float, model: nn.Module, samples: LabelledSamples, clean: Tensor, seeds: Seeds
    ) -> tuple[Tensor, int]:
        """Return which samples stay right, and how many of them never had a gradient.

        The draws depend on the batch and the restart alone: they are the same at each radius, for any samples left.
        """
        descent, right, blind, first = self._descent(radius), clean.clone(), 0, 0
        for batch, (images, labels) in enumerate(samples.batches()):
            left = right[first : first + len(labels)]
            first += len(labels)
            for restart in range(self.restarts):
                if not left.any():
                    break
                started = descent.start(images, seeds.torch("start", batch, restart)) if self.random_start else images
                places = left.nonzero().flatten().to(images.device)
                found, moved = descent.run(model, images[places], labels[places], started[places])
                with torch.no_grad():
                    held = model(found).argmax(1) == labels[places]
                left[left.clone()] = held.cpu()
                blind += int((held & ~moved).sum()) if restart == 0 else 0
        return right, blind

    def _answer(self, accuracy: Mapping[float, float], count: int, blind: int) -> Answer:
        within = f"accuracy where each image is attacked within that distance ({_NORMS[self.norm]})"
        numbers = {
            _key(self.norm, radius): fraction(
                value, within if radius else "accuracy without an attack", "higher", title=_title(self.norm, radius)
            )
            for radius, value in accuracy.items()
        }
        if max(accuracy):
            meaning = "area under the curve of accuracy against strength: its mean from 0 to the greatest strength"
            numbers["area"] = fraction(mean_height(accuracy), meaning, "higher")
        details = {
            "samples": count,
            "strengths": list(accuracy),
            "accuracy": list(accuracy.values()),
            "step_sizes": [self._descent(radius).step for radius in accuracy if radius],
        }
        unit = _LEVELS if self.norm == "linf" else 1
        chart = lines(
            "accuracy",
            f"Accuracy under PGD of {self.steps} steps by its strength ({_NORMS[self.norm]})",
            "strength in 1/255 of the range of pixels (L∞)" if self.norm == "linf" else "strength (L2)",
            "accuracy",
            Series("accuracy", [radius * unit for radius in accuracy], list(accuracy.values())),
        )
        remark = (
            f"for {blind} of {count} samples that stayed right the gradient is zero: it vanishes by rounding if the "
            "network is too sure, PGD then finds no way, and the accuracy is too high"
        )
        return Answer(numbers, [chart], details, [remark] if blind else [])


@dataclass(frozen=True)
class Descent:
    """Steps of size ``step`` that raise the loss of images, inside the ball of ``radius`` around them and [0, 1]."""

    norm: Literal["linf", "l2"]
    radius: float
    step: float
    steps: int

    def start(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Random points of the ball: the same draws, scaled, at each radius."""
        if self.norm == "linf":
            offset = 2 * torch.rand(images.shape, generator=rng) - 1
        else:
            offset = torch.randn(images.shape, generator=rng)
            offset *= torch.rand(_each(images), generator=rng) / _lengths(offset)
        return (images + self.radius * offset.to(images.device)).clamp(0, 1)

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, started: Tensor) -> tuple[Tensor, Tensor]:
        """Return the changed images, and which of them ever had a gradient other than zero, bool ``(n,)``.

        ``images`` and ``started`` are float32 in [0, 1], of the same shape; ``model`` is in eval mode.
        """
        found, moved = started, torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for _ in range(self.steps):
            gradient = _gradient(model, found, labels)
            moved |= gradient.flatten(1).any(1)
            found = (images + self._within(found + self.step * self._direction(gradient) - images)).clamp(0, 1)
        return found, moved

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "linf" else gradient / _lengths(gradient)

    def _within(self, change: Tensor) -> Tensor:
        if self.norm == "linf":
            return change.clamp(-self.radius, self.radius)
        return change * (self.radius / _lengths(change)).clamp(max=1)


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each image's own cross-entropy; ``InapplicableError`` if there is none or it is not finite."""
    images = images.detach().requires_grad_(True)
    try:
        with torch.enable_grad():
            outputs = model(images.clone())  # a network may write into its input
            loss = nn.functional.cross_entropy(outputs.float(), labels, reduction="sum")
        gradient: Tensor = torch.autograd.grad(loss, images)[0]
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InapplicableError(f"the network gives no gradient of its input: {reason}") from error
    if not gradient.isfinite().all():
        raise InapplicableError("the gradient in the input is not finite: it may have diverged, so train it again")
    return gradient


def _each(images: Tensor) -> tuple[int, ...]:
    """The shape of one number per image."""
    return (len(images), *[1] * (images.ndim - 1))


def _lengths(changes: Tensor) -> Tensor:
    """The L2 norm of each change, at least 1e-12."""
    lengths: Tensor = changes.flatten(1).norm(dim=1)
    return lengths.clamp_min(1e-12).view(_each(changes))


def _title(norm: str, radius: float) -> str:
    """``clean``; ``at 8/255`` for a whole number of levels (linf); else ``at 0.25``."""
    if not radius:
        return "clean"
    levels = radius * _LEVELS
    if norm == "linf" and abs(levels - round(levels)) < 1e-6:
        return f"at {round(levels)}/{_LEVELS}"
    return f"at {radius:.6g}"


def _key(norm: str, radius: float) -> str:
    """``clean``, ``at_8_255`` or ``at_0_25``."""
    return re.sub("[ /.]", "_", _title(norm, radius)).replace("+", "")
