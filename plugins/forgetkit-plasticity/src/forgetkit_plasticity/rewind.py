"""Iterative magnitude pruning with rewinding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Change, Intervention, InterventionContext, ReinitContext, Scope, Writes
from forgetkit.errors import OptionError


@dataclass(frozen=True)
class Rewind(Intervention):
    """Rewinding: what matters least goes to zero, and everything else back to an early point of the run.

    Formula: θ ← M ⊙ θ_k + (1 − M) ⊙ θ_low, with M = 0 for share · N of the N scored entries, θ_k the weights at the
    end of epoch k of the first mega-batch, and θ_low zero or the weights at the run's start.

    share: of the scored entries, those that are selected.
    lowest: what a selected entry becomes: zero, or its value at the run's start (initial).
    epoch: k, or the last epoch of the first mega-batch where that comes sooner; 0: the weights at the run's start.
    params: which of the selected entries become that; the others go back with the rest.

    Cost: beside the criterion's, a copy of the parameters where epoch is not 0.

    Source: Frankle and Carbin, 2019; Frankle et al., 2020; as a way of forgetting in Zhou et al., 2022.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.2
    lowest: Literal["zero", "initial"] = "zero"
    epoch: Annotated[int, Field(ge=0)] = 0
    params: Scope = "conv-linear"

    needs_scores: ClassVar[bool] = True
    touches: ClassVar[frozenset[Writes]] = frozenset({"weights", "biases", "norm"})

    def __post_init__(self) -> None:
        if self.lowest == "initial" and self.epoch == 0:
            raise OptionError(
                "rewind: with lowest=initial and epoch=0 every entry gets its initial value, whatever is selected: "
                "use reinit cold:draw=same, or epoch=1 and later"
            )

    def after_epoch(self, moment: InterventionContext) -> None:
        """In the first epochs of the run, a copy of the weights."""
        if moment.mega_batch == 1 and moment.epoch <= self.epoch:
            for name, value in moment.model.named_parameters():
                if value.requires_grad:
                    moment.state[name] = value.detach().clone()

    def propose(self, context: ReinitContext) -> Iterable[Change]:
        """Every trainable parameter."""
        masks = context.select(self.share)
        begun = self._early(context)
        dropped = set(context.names(self.params)) & set(masks)
        for name in context.targets:
            value = begun(name)
            if name in dropped:
                low = torch.zeros_like(value) if self.lowest == "zero" else context.fresh(name, "rewind")
                value = torch.where(masks[name], low, value)
            yield Change(name, None, value)

    def _early(self, context: ReinitContext) -> Callable[[str], Tensor]:
        """The weights that it goes back to, by name."""
        if self.epoch == 0:
            return lambda name: context.fresh(name, "rewind")
        if not context.memory:
            raise OptionError(
                f"rewind: epoch={self.epoch} needs the weights of that epoch: attach() it to the training, pass memory="
            )
        return context.memory.__getitem__
