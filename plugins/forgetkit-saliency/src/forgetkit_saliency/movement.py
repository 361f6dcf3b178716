"""Movement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from forgetkit.contracts import Intervention, InterventionContext, Probe, Writes
from forgetkit_saliency.recording import gradients_of, recorded


@dataclass(frozen=True)
class Movement(Intervention):
    """How steadily training moved an entry away from zero in the mega-batch; watches the training.

    Signed: a large entry that shrinks scores below zero and is reset before a small one that grows.

    Formula: s = −Σ g · θ over the steps of the mega-batch, with g the gradient before the optimizer's step and θ the
    value before it.

    Cost: a copy of the parameters; no pass over data.

    Source: Sanh et al., 2020, whose scores are learned beside the weights; this is their sum over plain training.
    """

    needs_data: ClassVar[bool] = False
    touches: ClassVar[frozenset[Writes]] = frozenset()
    expected_failures: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"higher-is-keep": "signed: an entry without effect scores zero, above those that shrink"}
    )

    def begin(self, moment: InterventionContext) -> None:
        """Forget the mega-batch before."""
        moment.state.clear()

    def before_step(self, moment: InterventionContext) -> None:
        """Add −g · θ of each weight."""
        for name, parameter, gradient in gradients_of(moment.model):
            push = -gradient * parameter.detach().float()
            moment.state[f"sum {name}"] = moment.state.get(f"sum {name}", 0.0) + push

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return the sums."""
        return recorded(probe, "sum", "movement")
