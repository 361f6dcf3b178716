"""DASH: direction-aware shrinking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from forgetkit.contracts import Change, Probe, ReinitContext, SampleLimit, Writes
from forgetkit.errors import NoMatchError


@dataclass(frozen=True)
class Dash:
    """Shrink weights that do not point in the direction of descent, and keep those that do.

    Formula: θ ← θ · clip(cos(θ, v), floor, 1) for each kernel from one channel to another, each row of a matrix, and
    each bias as one vector, with v ← (1 − alpha) · v − alpha · ∂L/∂θ over consecutive chunks of the samples.

    alpha: weight of a chunk in the running mean v; later chunks count more.
    floor: factor on weights that point elsewhere.
    chunk: samples of one chunk.
    samples: scoring samples at most: a count, a fraction of those available, or none for all.

    Cost: one forward and one backward pass over the samples.

    Source: Shin et al., 2024.
    """

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.3
    floor: Annotated[float, Field(ge=0, le=1)] = 0.3
    chunk: Annotated[int, Field(ge=1)] = 1024
    samples: SampleLimit = None

    needs_data: ClassVar[bool] = True
    touches: ClassVar[frozenset[Writes]] = frozenset({"weights", "biases"})

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose a change for each matrix, kernel and bias of layers that do not normalise."""
        descent = self._descent(context)
        weights = set(context.names("conv-linear"))
        names = [name for layer in context.layers if layer.kind == "weight" for name in layer.parameters]
        names = [name for name in dict.fromkeys(names) if name in descent]
        if not names:
            raise NoMatchError("dash: this network has no convolution and no fully connected layer")
        for name in names:
            old = context.targets[name]
            # A kernel belongs to a pair of channels, a row to an output.
            along = max(1, min(2, old.ndim - 1)) if name in weights else 0
            factor = _agreement(old, descent[name].to(old), along).clamp(self.floor, 1)
            yield Change(name, None, old * factor)

    def _descent(self, context: ReinitContext) -> dict[str, Tensor]:
        """The running mean of the direction of descent."""
        with context.probe() as probe:
            mean = probe.zeros()
            for gradient in self._gradients(probe):
                for name, direction in mean.items():
                    direction.lerp_(-gradient[name], self.alpha)
        return mean

    def _gradients(self, probe: Probe) -> Iterator[dict[str, Tensor]]:
        """The gradient of the mean loss of each chunk, in the order of the samples."""
        mean, seen, counted = probe.zeros(), 0, 0.0
        for inputs, targets in probe.batches(self.samples):
            start = 0
            while start < len(targets):
                part = slice(start, start + self.chunk - seen)
                start += self.chunk - seen
                seen += len(targets[part])
                gradients = probe.grads(inputs[part], targets[part])
                counted += gradients.count
                for name, gradient in gradients.items() if gradients.count else ():
                    mean[name].lerp_(gradient, gradients.count / counted)
                if seen == self.chunk:
                    yield mean
                    mean, seen, counted = probe.zeros(), 0, 0.0
        if seen:
            yield mean


def _agreement(one: Tensor, other: Tensor, along: int) -> Tensor:
    """The cosine between the slices at each index of the first ``along`` dimensions, in a shape that broadcasts."""
    cosine = cosine_similarity(one.double().flatten(along), other.double().flatten(along), dim=along, eps=1e-30)
    return cosine.to(one.dtype).reshape(*cosine.shape, *[1] * (one.ndim - along))
