"""Continual backpropagation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from forgetkit.contracts import Intervention, InterventionContext, UnitGroup, UnitSlice, Writes
from forgetkit_plasticity._units import RESETTING, Coupled, open_groups

_SMALLEST = torch.finfo(torch.float32).eps
"""The lower limit of a size of weights that is a divisor."""


@dataclass(frozen=True, eq=False)
class _UnitStatistics:
    """Age, utility and mean activity of a group's units: tensors of the state, written in place."""

    age: Tensor
    utility: Tensor
    mean: Tensor
    owed: Tensor

    @classmethod
    def of(cls, state: dict[str, Tensor], group: UnitGroup, device: torch.device) -> _UnitStatistics:
        """The statistics of a group, created if there are none."""

        def tensor(what: str, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return state.setdefault(f"{what} of {group.name}", torch.zeros(size, dtype=dtype, device=device))

        return cls(
            tensor("age", (group.size,), torch.int64),
            tensor("utility", (group.size,), torch.float32),
            tensor("mean", (group.size,), torch.float32),
            tensor("owed", (), torch.float64),
        )

    def restart(self, units: Tensor) -> None:
        for values in (self.age, self.utility, self.mean):
            values[units] = 0


@dataclass(frozen=True)
class ContinualBackprop(Intervention):
    """Continual backpropagation: at each step restart a tiny fraction of the mature units, those of least utility.

    Formula: u ← decay · u + (1 − decay) · now, over 1 − decay^age; of the n units of a group older than maturity,
    rate · n restarts become due at each step, and whole ones are made for the lowest u: incoming weights and
    normalisation fresh, bias and outgoing weights 0, age 0.

    rate: fraction of a group's mature units to restart at each step.
    maturity: steps after its start in which a unit is never restarted.
    utility: the utility of a unit in one step, with h as its readers receive it and means over its weights.
        contribution: E|h| · mean|w_out|;
        zero-contribution: E|h − its running mean| · mean|w_out|;
        adaptable: zero-contribution / mean|w_in|;
        adaptation: 1 / mean|w_in|;
        weight: mean|w_out|;
        random: U(0, 1).
    decay: of the running means of utility and of h.
    mean: add the running mean of a restarted unit to its readers' biases, if they have any (hand-over), or lose it
        (drop).
    coupled: skip or include units that several layers write, as in a residual stream.

    Cost: at each step, a pass over the activities and over the weights around each unit.

    Source: Dohare et al., 2024.
    """

    rate: Annotated[float, Field(ge=0, le=1)] = 1e-5
    maturity: Annotated[int, Field(ge=0)] = 1000
    utility: Literal["contribution", "zero-contribution", "adaptable", "adaptation", "weight", "random"] = (
        "contribution"
    )
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    mean: Literal["hand-over", "drop"] = "hand-over"
    coupled: Coupled = "skip"

    needs_activity: ClassVar[bool] = True
    touches: ClassVar[frozenset[Writes]] = RESETTING
    test_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"rate": 0.5, "maturity": 1})

    def begin(self, moment: InterventionContext) -> None:
        """Raise ``NoMatchError`` if there is nothing to reset."""
        open_groups(moment.context, self.coupled, "continual-backprop")

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        """Update ages and utilities, and restart the units of least utility."""
        context = moment.context
        chosen = {}
        for group in open_groups(context, self.coupled, "continual-backprop"):
            activity = moment.activity.get(group.name)
            if activity is None:  # this step did not run its readers
                continue
            statistics = _UnitStatistics.of(moment.state, group, activity.device)
            statistics.age.add_(1)
            correction = 1 - self.decay**statistics.age
            statistics.mean.lerp_(activity.mean((0, 2)), 1 - self.decay)
            now = self._worth(group, activity, statistics.mean / correction, context.targets, context.rng(group.name))
            statistics.utility.lerp_(now, 1 - self.decay)
            units = self._due(statistics, statistics.utility / correction)
            if bool(units.any()):
                if self.mean == "hand-over":
                    _hand_over(
                        moment.model, group, torch.where(units, statistics.mean / correction, 0), context.targets
                    )
                statistics.restart(units)
                chosen[group.name] = units
        moment.apply(context.reset_units(chosen))

    def _worth(
        self,
        group: UnitGroup,
        activity: Tensor,
        mean: Tensor,
        weights: Mapping[str, Tensor],
        rng: torch.Generator,
    ) -> Tensor:
        """The utility of each unit in this step."""
        match self.utility:
            case "contribution":
                return activity.abs().mean((0, 2)) * _size_of(group.outgoing, weights, group.size)
            case "zero-contribution":
                return _spread(activity, mean) * _size_of(group.outgoing, weights, group.size)
            case "adaptable":
                read = _spread(activity, mean) * _size_of(group.outgoing, weights, group.size)
                return read / _size_of(group.incoming, weights, group.size).clamp_min(_SMALLEST)
            case "adaptation":
                return 1 / _size_of(group.incoming, weights, group.size).clamp_min(_SMALLEST)
            case "weight":
                return _size_of(group.outgoing, weights, group.size)
            case "random":
                return torch.rand(group.size, generator=rng).to(activity.device)

    def _due(self, statistics: _UnitStatistics, utility: Tensor) -> Tensor:
        """Which units to restart now: as many mature ones as are due, the first of equal ones."""
        mature = statistics.age > self.maturity
        statistics.owed.add_(self.rate * int(mature.sum()))
        count = int(statistics.owed)
        statistics.owed.sub_(count)
        lowest = torch.where(mature, utility, torch.inf).argsort(stable=True)[:count]
        return torch.zeros_like(mature).index_fill(0, lowest, True)


def _size_of(parts: Sequence[UnitSlice], tensors: Mapping[str, Tensor], size: int) -> Tensor:
    """The mean of each unit's absolute entries in ``parts``."""
    return torch.cat([part.per_unit(tensors[part.name], size).abs().float() for part in parts], 1).mean(1)


def _spread(activity: Tensor, mean: Tensor) -> Tensor:
    return (activity - mean[:, None]).abs().mean((0, 2))


def _hand_over(model: nn.Module, group: UnitGroup, mean: Tensor, weights: Mapping[str, Tensor]) -> None:
    """Add to each reader's bias what it receives from units at their ``mean``."""
    for part, reader in zip(group.outgoing, group.readers, strict=True):
        module = model.get_submodule(reader)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter) and bias.requires_grad:
            weight = weights[part.name]
            columns = weight.movedim(part.dim, 0)[part.start : part.start + group.size * part.repeat]
            per_unit = columns.reshape(group.size, part.repeat, columns.shape[1], -1).sum((1, 3), dtype=torch.float32)
            if isinstance(module, _ConvTransposeNd):  # each output sees one entry of the kernel in as many
                per_unit = per_unit / math.prod(module.stride)
            bias.add_((mean @ per_unit).to(bias.dtype))
