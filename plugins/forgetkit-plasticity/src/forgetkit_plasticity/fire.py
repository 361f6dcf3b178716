"""FIRE: replace every weight matrix by the nearest orthogonal one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Change, ReinitContext, Writes
from forgetkit.errors import NoMatchError


@dataclass(frozen=True)
class Fire:
    """Replace every weight matrix by the nearest one with orthogonal rows or columns.

    Formula: X ← X / ‖X‖_F, then iterations times X ← 1.5 · X − 0.5 · X Xᵀ X, and θ ← √(d_out / d_in) / positions · X;
    in a convolution for the matrix at each of the kernel's positions.

    iterations: how often; ten raise a small singular value by a factor of 57 at most.

    Cost: 2 · iterations products of matrices of each weight's size.

    Source: Han et al., 2026.
    """

    iterations: Annotated[int, Field(ge=1)] = 10

    touches: ClassVar[frozenset[Writes]] = frozenset({"weights"})

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose a change for each matrix and kernel of layers that do not normalise."""
        names = context.names("conv-linear")
        if not names:
            raise NoMatchError("fire: this network has no convolution and no fully connected layer")
        for name in names:
            yield Change(name, None, self._orthogonal(context.targets[name]))

    def _orthogonal(self, weight: Tensor) -> Tensor:
        """Orthogonalise and scale the matrix at each position; keep the weight's shape."""
        at_positions = weight.flatten(1) if weight.ndim == 2 else weight.flatten(2)
        matrices = at_positions.reshape(*weight.shape[:2], -1).permute(2, 0, 1)
        working = matrices.to(torch.promote_types(weight.dtype, torch.float32))
        tall = working.shape[1] > working.shape[2]
        x = working.mT if tall else working  # the smaller product, X Xᵀ
        x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        for _ in range(self.iterations):
            x = 1.5 * x - 0.5 * (x @ x.mT) @ x
        outputs, inputs = weight.shape[:2]
        scaled: Tensor = (x.mT if tall else x) * (math.sqrt(outputs / inputs) / len(matrices))
        return scaled.permute(1, 2, 0).reshape(weight.shape).to(weight.dtype)
