"""ReDo: recycling dormant neurons, between two mega-batches or while training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Change, Intervention, InterventionContext, ReinitContext, SampleLimit, UnitGroup, Writes
from forgetkit_plasticity._units import RESETTING, Coupled, open_groups


@dataclass(frozen=True)
class Redo:
    """Restart the units that are dormant on the scoring samples.

    Formula: s_i = E|h_i| / mean_k E|h_k| over the units k of a group, with h as the layers that read a unit
    receive it; if s_i ≤ tau the incoming weights and the normalisation of unit i become fresh, its bias and outgoing
    weights zero.

    tau: the greatest activity of a dormant unit, as a fraction of its group's mean; 0: units that never fire.
    samples: scoring samples at most: a count, a fraction of those available, or none for all.
    coupled: skip or include units that several layers write, as in a residual stream.

    Cost: one forward pass over the samples.

    Source: Sokar et al., 2023.
    """

    tau: Annotated[float, Field(ge=0)] = 0.1
    samples: SampleLimit = 1024
    coupled: Coupled = "skip"

    needs_data: ClassVar[bool] = True
    touches: ClassVar[frozenset[Writes]] = RESETTING

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Propose a change for each parameter that belongs to a dormant unit."""
        groups = open_groups(context, self.coupled, "redo")
        chosen = _dormant(groups, self._activity(context), self.tau)
        if any(bool(units.any()) for units in chosen.values()):
            yield from context.reset_units(chosen)
        else:
            yield from _none_dormant(groups, context)

    def _activity(self, context: ReinitContext) -> Mapping[str, Tensor]:
        """E|h| of each unit over the samples, by the group's name."""
        mean: dict[str, Tensor] = {}
        seen = 0
        with context.probe() as probe:
            for inputs, targets in probe.batches(self.samples):
                seen += len(targets)
                for name, size in _sizes(probe.unit_activity(inputs)).items():
                    mean[name] = torch.lerp(mean.get(name, size), size, len(targets) / seen)
        return mean


@dataclass(frozen=True)
class RedoWhileTraining(Intervention):
    """Restart, at regular steps, the units that are dormant on the step's batch.

    Formula: s_i = E|h_i| / mean_k E|h_k| over the units k of a group, with h as the layers that read a unit
    receive it; if s_i ≤ tau the incoming weights and the normalisation of unit i become fresh, its bias and outgoing
    weights zero.

    every: steps between two resets, counted over the whole run.
    tau: the greatest activity of a dormant unit, as a fraction of its group's mean; 0: units that never fire.
    coupled: skip or include units that several layers write, as in a residual stream.

    Cost: a mean over the activity of one batch at each reset.

    Source: Sokar et al., 2023.
    """

    every: Annotated[int, Field(ge=1)] = 1000
    tau: Annotated[float, Field(ge=0)] = 0.1
    coupled: Coupled = "skip"

    needs_activity: ClassVar[bool] = True
    touches: ClassVar[frozenset[Writes]] = RESETTING
    test_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"every": 2})

    def begin(self, moment: InterventionContext) -> None:
        """Raise ``NoMatchError`` if there is nothing to reset."""
        open_groups(moment.context, self.coupled, "redo")

    def after_step(self, moment: InterventionContext) -> None:
        """At every so many steps, a reset."""
        steps = moment.state.setdefault("steps", torch.zeros((), dtype=torch.int64))
        steps += 1
        if int(steps) % self.every == 0:
            context = moment.context
            groups = open_groups(context, self.coupled, "redo")
            moment.apply(context.reset_units(_dormant(groups, _sizes(moment.activity), self.tau)))


def _sizes(activity: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """E|h| of each unit of a batch."""
    return {name: h.abs().mean((0, 2)) for name, h in activity.items()}


def _dormant(groups: Iterable[UnitGroup], sizes: Mapping[str, Tensor], tau: float) -> dict[str, Tensor]:
    """Which units are dormant. Without a division: in a group that is silent altogether all are."""
    found = {group.name: sizes[group.name] for group in groups if group.name in sizes}
    return {name: size <= tau * size.mean() for name, size in found.items()}


def _none_dormant(groups: Iterable[UnitGroup], context: ReinitContext) -> Iterator[Change]:
    """Changes of no entry: what was looked at stands in the report, and nothing to reset is no mistake."""
    for name in dict.fromkeys(share.name for group in groups for share in group.incoming):
        value = context.targets[name]
        yield Change(name, torch.zeros_like(value, dtype=torch.bool), value)
