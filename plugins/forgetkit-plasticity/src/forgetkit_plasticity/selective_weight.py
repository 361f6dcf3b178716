"""Selective weight reinitialisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Change, Intervention, InterventionContext, Origin, ReinitContext, Scope, Writes
from forgetkit.errors import NoMatchError, OptionError

_UTILITY = "utility of "


@dataclass(frozen=True)
class SelectiveWeight(Intervention):
    """Restart single weights at regular steps: in each tensor those of least utility.

    Formula: θ ← ξ in a tensor where u = |g · θ|, |θ| or U(0, 1) is among the lowest, or below a fraction of its mean.

    every: steps between two resets, counted over the whole run; 0: at the first step of each mega-batch but the
        first.
    utility: of an entry, with g the gradient that the optimizer steps by: |g · θ| (gradient), |θ| (magnitude), random.
    choose: the amount · n lowest of a tensor's n entries, rounded up or down at random so that it is true on average
        (share), or all entries with u ≤ amount · mean u (below-mean).
    amount: see choose.
    decay: decay of a running mean of u over the steps, which replaces u: mean ← decay · mean + (1 - decay) · u, from
        zero at the start and again in a whole tensor that had an entry reset; 0: u of the step alone.
    params: which parameters may be reset.
    fresh: where ξ comes from: the module's own initial distribution (original), torch's reset_parameters
        (layer-default), U(±1/√fan_in) (uniform), the value at the run's start (rewind), or zero.

    Cost: a sort of each tensor at a reset; with a decay, a pass over the parameters at each step and a copy of them.

    Source: Hernandez-Garcia et al., 2025 (arXiv 2508.00212).
    """

    every: Annotated[int, Field(ge=0)] = 0
    utility: Literal["gradient", "magnitude", "random"] = "gradient"
    choose: Literal["share", "below-mean"] = "share"
    amount: Annotated[float, Field(ge=0)] = 0.01
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    params: Scope = "all"
    fresh: Origin = "original"

    test_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"amount": 0.5})

    def __post_init__(self) -> None:
        if self.choose == "share" and self.amount > 1:
            raise OptionError(f"selective-weight: amount={self.amount} is no fraction; write 1 at most")
        if self.utility == "random" and self.decay > 0:
            raise OptionError("selective-weight: utility=random has no running mean: leave decay out")

    @property
    def touches(self) -> frozenset[Writes]:
        """The kinds of tensors that it writes."""
        if self.params == "all":
            return frozenset({"weights", "biases", "norm"})
        return frozenset({"weights", "norm"} if self.params == "weights" else {"weights"})

    def begin(self, moment: InterventionContext) -> None:
        """Raise ``NoMatchError`` if there is nothing to reset."""
        if not moment.context.names(self.params):
            raise NoMatchError(f"selective-weight: params={self.params}: this network has no such parameter")

    @torch.no_grad()
    def before_step(self, moment: InterventionContext) -> None:
        """Measure utilities, before the step changes the weights of these gradients."""
        steps = moment.state.setdefault("steps", torch.zeros((), dtype=torch.int64))
        steps += 1
        if self.utility == "random" or not (self.decay or self._due(moment)):
            return
        parameters = dict(moment.model.named_parameters())
        for name in moment.context.names(self.params):
            parameter = parameters[name]
            if self.utility == "magnitude":
                now = parameter.abs().float()
            elif parameter.grad is not None:
                now = (parameter.grad * parameter).abs().float()
            else:
                continue
            key = _UTILITY + name
            moment.state[key] = torch.lerp(moment.state.get(key, torch.zeros_like(now)), now, 1 - self.decay)

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        """Reset weights when it is due."""
        if self._due(moment):
            moment.apply(self._changes(moment.context, moment.state))

    def _due(self, moment: InterventionContext) -> bool:
        if self.every == 0:
            return moment.mega_batch > 1 and (moment.epoch, moment.step) == (1, 0)
        return int(moment.state["steps"]) % self.every == 0

    def _changes(self, context: ReinitContext, state: dict[str, Tensor]) -> Iterator[Change]:
        for name in context.names(self.params):
            rng, old = context.rng(name), context.targets[name]
            if self.utility == "random":
                utility = torch.rand(old.shape, generator=rng).to(old.device)
            elif _UTILITY + name in state:
                utility = state[_UTILITY + name]
            else:
                continue
            chosen = self._chosen(utility, rng)
            if not self.decay or bool(chosen.any()):
                state.pop(_UTILITY + name, None)  # a fresh entry must not inherit a utility
            yield Change(name, chosen, context.fresh(name, self.fresh))

    def _chosen(self, utility: Tensor, rng: torch.Generator) -> Tensor:
        """The entries to reset; a random choice of those that tie."""
        if self.choose == "below-mean":
            return utility <= self.amount * utility.mean()
        wanted = self.amount * utility.numel()
        count = math.floor(wanted) + int(torch.rand((), generator=rng, dtype=torch.float64) < wanted % 1)
        order = torch.randperm(utility.numel(), generator=rng).to(utility.device)
        lowest = order[utility.flatten()[order].argsort(stable=True)[:count]]
        chosen = torch.zeros(utility.numel(), dtype=torch.bool, device=utility.device)
        return chosen.index_fill(0, lowest, True).view(utility.shape)
