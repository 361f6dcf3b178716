"""The path integral of synaptic intelligence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Intervention, InterventionContext, Probe, Writes
from forgetkit_saliency.recording import gradients_of, recorded


@dataclass(frozen=True)
class PathIntegral(Intervention):
    """How much an entry has contributed to the fall of the loss in the mega-batch; watches the training.

    Formula: s = max(0, ω / (Δθ² + xi)), with ω = −Σ g Δθ over the steps of the mega-batch, g the gradient before the
    step and Δθ the change by the step; in the denominator, Δθ is the change since the mega-batch began.

    xi: bounds the scores of entries that hardly moved.
    clip: the highest score; none for no limit.

    Cost: four copies of the parameters while a step is made, two between steps; no pass over data.

    Source: Zenke et al., 2017, equation 5.
    """

    xi: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-7
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    needs_data: ClassVar[bool] = False
    touches: ClassVar[frozenset[Writes]] = frozenset()

    def begin(self, moment: InterventionContext) -> None:
        """Forget the mega-batch before."""
        moment.state.clear()

    def before_step(self, moment: InterventionContext) -> None:
        """Store each weight and its gradient."""
        for name, parameter, gradient in gradients_of(moment.model):
            value = parameter.detach().float().clone()
            moment.state.setdefault(f"start {name}", value)
            moment.state[f"value {name}"] = value
            moment.state[f"gradient {name}"] = gradient.clone()

    def after_step(self, moment: InterventionContext) -> None:
        """Add the contribution of the step."""
        for name, parameter in moment.model.named_parameters():
            value = moment.state.pop(f"value {name}", None)
            if value is not None:
                moved = parameter.detach().float() - value
                gain = -moment.state.pop(f"gradient {name}") * moved
                moment.state[f"sum {name}"] = moment.state.get(f"sum {name}", 0.0) + gain

    def score(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return ω over the squared distance, at least zero."""
        sums, starts = recorded(probe, "sum", "path-integral"), recorded(probe, "start", "path-integral")
        return {
            name: (sums[name] / ((target - starts[name]).square() + self.xi)).clamp(0, self.clip)
            for name, target in probe.targets.items()
        }
