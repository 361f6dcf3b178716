"""GraSP: gradient signal preservation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from forgetkit.contracts import Probe, SampleLimit
from forgetkit.unlearning import require_classes
from forgetkit_saliency.averages import counted, mean_of

_ROUNDING = 1e-3
"""How far the sum of probabilities may be from one in half precision."""


@dataclass(frozen=True)
class Grasp:
    """How much the gradient's norm would fall if an entry became zero: keeps what helps the network learn.

    Signed: an entry below zero hinders learning and is reset first.

    Formula: s = θ · (H g), with g the gradient and H the Hessian of the mean loss L over the scoring samples.

    temperature: divides the outputs in the cross-entropy L; none for the training loss.
    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    Cost: three forward and three backward passes over the samples.

    Source: Wang et al., 2020, whose score for removal is the negative.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 200.0
    samples: SampleLimit = 256

    expected_failures: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"higher-is-keep": "signed: an entry without effect scores zero, above those that hinder learning"}
    )

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return θ times the mean of H g over batches, with g over all of them."""
        gradients = (
            counted(probe.grads(inputs, targets, loss=self._loss)) for inputs, targets in probe.batches(self.samples)
        )
        vector = mean_of(probe.zeros(), gradients)
        products = (
            counted(probe.hvp(inputs, targets, vector, loss=self._loss))
            for inputs, targets in probe.batches(self.samples)
        )
        return {name: probe.targets[name] * value for name, value in mean_of(probe.zeros(), products).items()}

    @property
    def _loss(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The loss at the temperature, or None for the training loss."""
        temperature = self.temperature
        if temperature is None:
            return None

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            if not _are_probabilities(outputs, targets):
                require_classes(outputs, targets, "grasp: cross-entropy at a temperature", "use temperature=none")
            return cross_entropy(outputs / temperature, targets)

        return loss


def _are_probabilities(outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets are distributions over two classes or more, as mixup makes them."""
    if (
        not isinstance(targets, Tensor)
        or not targets.is_floating_point()
        or targets.shape != outputs.shape
        or outputs.ndim < 2
        or outputs.shape[1] < 2
    ):
        return False
    return bool((targets >= 0).all()) and bool((targets.sum(1) - 1).abs().max() < _ROUNDING)
