"""Continual backpropagation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from forgetkit.contracts import Intervention, InterventionContext, UnitGroup, UnitSlice, Writes
from forgetkit_plasticity._units import RESETTING, Coupled, open_groups

_SMALLEST = torch.finfo(torch.float32).eps
"""Weights are taken to be no smaller where something is divided by their size."""


@dataclass(frozen=True, eq=False)
class _Account:
    """What is kept of the units of a group: tensors of the state, written in place."""

    age: Tensor
    utility: Tensor
    mean: Tensor
    owed: Tensor

    @classmethod
    def of(cls, state: dict[str, Tensor], group: UnitGroup, device: torch.device) -> _Account:
        """The group's account, opened where there is none."""

        def kept(what: str, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return state.setdefault(f"{what} of {group.name}", torch.zeros(size, dtype=dtype, device=device))

        return cls(
            kept("age", (group.size,), torch.int64),
            kept("utility", (group.size,), torch.float32),
            kept("mean", (group.size,), torch.float32),
            kept("owed", (), torch.float64),
        )

    def close(self, units: Tensor) -> None:
        """``units`` begin again."""
        for kept in (self.age, self.utility, self.mean):
            kept[units] = 0


@dataclass(frozen=True)
class ContinualBackprop(Intervention):
    """Continual backpropagation: at each step restart a tiny share of the mature units, those of least use.

    Formula: u ← decay · u + (1 − decay) · now, over 1 − decay^age; of the n units of a group older than maturity,
    rate · n are owed a restart at each step, and whole ones are paid with the lowest u: incoming weights and
    normalisation fresh, bias and outgoing weights 0, age 0.

    rate: share of a group's mature units that is restarted at each step.
    maturity: steps that a unit is left alone after its start.
    utility: what a unit is worth now, with h what its readers see of it and means over its weights.
        contribution: E|h| · mean|w_out|;
        zero-contribution: E|h − its running mean| · mean|w_out|;
        adaptable: zero-contribution / mean|w_in|;
        adaptation: 1 / mean|w_in|;
        weight: mean|w_out|;
        random: U(0, 1).
    decay: of the running means of utility and of h.
    mean: what becomes of a restarted unit's running mean: its readers' biases take it over, where they have some
        (hand-over), or it is lost (drop).
    coupled: leave out the units that several layers write into, as a residual stream's, or include them.

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
        """Says at once where there is nothing to reset."""
        open_groups(moment.context, self.coupled, "continual-backprop")

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        """Everybody ages, is weighed, and the least useful restart."""
        context = moment.context
        chosen = {}
        for group in open_groups(context, self.coupled, "continual-backprop"):
            activity = moment.activity.get(group.name)
            if activity is None:  # its readers were not called in this step
                continue
            account = _Account.of(moment.state, group, activity.device)
            account.age.add_(1)
            correction = 1 - self.decay**account.age
            account.mean.lerp_(activity.mean((0, 2)), 1 - self.decay)
            now = self._worth(group, activity, account.mean / correction, context.targets, context.rng(group.name))
            account.utility.lerp_(now, 1 - self.decay)
            units = self._due(account, account.utility / correction)
            if bool(units.any()):
                if self.mean == "hand-over":
                    _hand_over(moment.model, group, torch.where(units, account.mean / correction, 0), context.targets)
                account.close(units)
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
        """What each unit is worth in this step."""
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

    def _due(self, account: _Account, utility: Tensor) -> Tensor:
        """Which units are restarted now: as many of the mature ones as are owed, the first where they tie."""
        mature = account.age > self.maturity
        account.owed.add_(self.rate * int(mature.sum()))
        count = int(account.owed)
        account.owed.sub_(count)
        lowest = torch.where(mature, utility, torch.inf).argsort(stable=True)[:count]
        return torch.zeros_like(mature).index_fill(0, lowest, True)


def _size_of(shares: Sequence[UnitSlice], tensors: Mapping[str, Tensor], size: int) -> Tensor:
    """The mean of each unit's absolute entries in ``shares``."""
    return torch.cat([share.per_unit(tensors[share.name], size).abs().float() for share in shares], 1).mean(1)


def _spread(activity: Tensor, mean: Tensor) -> Tensor:
    return (activity - mean[:, None]).abs().mean((0, 2))


def _hand_over(model: nn.Module, group: UnitGroup, mean: Tensor, weights: Mapping[str, Tensor]) -> None:
    """What each reader got from units at their ``mean``, added to its bias."""
    for share, reader in zip(group.outgoing, group.readers, strict=True):
        bias = getattr(model.get_submodule(reader), "bias", None)
        if isinstance(bias, nn.Parameter) and bias.requires_grad:
            weight = weights[share.name]
            columns = weight.movedim(share.dim, 0)[share.start : share.start + group.size * share.repeat]
            per_unit = columns.reshape(group.size, share.repeat, len(weight), -1).sum((1, 3), dtype=torch.float32)
            bias.add_((mean @ per_unit).to(bias.dtype))
