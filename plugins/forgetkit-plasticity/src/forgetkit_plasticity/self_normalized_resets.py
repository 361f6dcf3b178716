"""Self-normalized resets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from forgetkit.contracts import Intervention, InterventionContext, Writes
from forgetkit_plasticity._units import RESETTING, Coupled, open_groups

_PER_OCTAVE = 8
"""Edges of the histogram of streaks per octave: every length to 11, then within 9 %."""


@dataclass(frozen=True)
class SelfNormalizedResets(Intervention):
    """Restart a unit that is silent for longer than usual.

    Formula: unit i is restarted when its silent streak, the samples since it last fired, exceeds t_i. At each refresh
    t_i becomes the given quantile of its finished streaks, where one that ended in a restart counts as endless; if that
    is not finite, or no streak has ended, 2 · t_i. t_i is at least the batch and at most limit, its initial value.

    quantile: quantile of a unit's own streaks.
    limit: longest silence before a restart, in samples.
    refresh: epochs between two updates of t_i.
    streaks: how streaks are counted.
        samples: each sample by itself, all streaks since the start;
        batches: as the released code does: a batch is silent or not as a whole, a streak of t_i ends in a restart,
        one that ended in a restart counts as long as it was, streaks of 0 do not count, and each refresh forgets them
        all; t_i becomes the quantile if that is shorter (the batch if no streak has ended), else 2 · t_i.
    coupled: skip or include units that several layers write, as in a residual stream.

    Cost: at each step, a pass over the activities; for each unit, a table of some hundred counts (batches: of limit).

    Source: Farias and Jozefiak, 2025.
    """

    quantile: Annotated[float, Field(gt=0, le=1)] = 0.95
    limit: Annotated[int, Field(ge=1)] = 20_000
    refresh: Annotated[int, Field(ge=1)] = 16
    streaks: Literal["samples", "batches"] = "samples"
    coupled: Coupled = "skip"

    needs_activity: ClassVar[bool] = True
    touches: ClassVar[frozenset[Writes]] = RESETTING
    test_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"limit": 2, "refresh": 1})

    def begin(self, moment: InterventionContext) -> None:
        """Raise ``NoMatchError`` if there is nothing to reset."""
        open_groups(moment.context, self.coupled, "self-normalized-resets")

    @torch.no_grad()
    def after_step(self, moment: InterventionContext) -> None:
        """Update the streaks, and restart units whose streak is too long."""
        context, edges = moment.context, self._edges
        chosen = {}
        for group in open_groups(context, self.coupled, "self-normalized-resets"):
            activity = moment.activity.get(group.name)
            if activity is None:  # this step did not run its readers
                continue
            fired = (activity > 0).any(2)
            silent, counts, bound = self._tensors(moment.state, group.name, fired, len(edges) + 1)
            if self.streaks == "batches":
                bound.clamp_min_(len(fired))
                _count_batch(fired, silent, counts)
                units = silent >= bound
                _add(counts, units, silent)
            else:
                _count(fired, silent, counts, edges.to(fired.device))
                units = silent > bound.clamp_min(len(fired))
                counts[units, -1] += 1
            silent[units] = 0
            chosen[group.name] = units
        moment.apply(context.reset_units(chosen))

    def after_epoch(self, moment: InterventionContext) -> None:
        """Update the bounds when a refresh is due."""
        epochs = moment.state.setdefault("epochs", torch.zeros((), dtype=torch.int64))
        epochs += 1
        if int(epochs) % self.refresh == 0:
            for key in [key for key in moment.state if key.startswith("bound of ")]:
                bound, counts = moment.state[key], moment.state[key.replace("bound of ", "counts of ", 1)]
                if self.streaks == "batches":
                    bound.copy_(_shorter(bound, counts[:, :-1], self.quantile).clamp_max(self.limit))
                    counts.zero_()
                else:
                    bound.copy_(self._renewed(bound, counts))

    @property
    def _edges(self) -> Tensor:
        """The edges of the histogram of streaks."""
        return torch.arange(self.limit + 1) if self.streaks == "batches" else _edges(self.limit)

    def _renewed(self, bound: Tensor, counts: Tensor) -> Tensor:
        """The quantile of each unit's streaks as an edge, or twice its bound."""
        edges = self._edges.to(bound.device)
        total = counts.sum(1)
        enough = counts.cumsum(1)[:, :-1] >= self.quantile * total[:, None]
        known = enough.any(1) & (total > 0)
        at = enough.to(torch.uint8).argmax(1)
        return torch.where(known, edges[at], 2 * bound).clamp_max(self.limit)

    def _tensors(self, state: dict[str, Tensor], name: str, fired: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
        """Current streaks, counts of finished ones by length, and bounds: tensors of the state."""
        size = fired.shape[1]
        silent = torch.zeros(size, dtype=torch.int64, device=fired.device)
        counted = torch.int32 if self.streaks == "batches" else torch.int64
        return (
            state.setdefault(f"silent of {name}", silent),
            state.setdefault(f"counts of {name}", torch.zeros(size, bins, dtype=counted, device=fired.device)),
            state.setdefault(f"bound of {name}", torch.full_like(silent, self.limit)),
        )


def _edges(limit: int) -> Tensor:
    """Edges of the histogram of streaks, ascending; the last is ``limit``."""
    lengths = {0, limit}
    power = 0
    while (length := int(2 ** (power / _PER_OCTAVE))) < limit:
        lengths.add(length)
        power += 1
    return torch.tensor(sorted(lengths))


def _count(fired: Tensor, silent: Tensor, counts: Tensor, edges: Tensor) -> None:
    """Continue the streaks through a batch, ``fired`` of shape ``(batch, size)``, and count those that end.

    The samples of the batch are numbered from 1, so that a unit silent for s samples fired last at -s.
    """
    batch, size = fired.shape
    number = torch.arange(1, batch + 1, device=fired.device)[:, None]
    last = torch.where(fired, number, -silent).cummax(0).values
    before = torch.cat([-silent[None], last[:-1]])
    streaks = number - before - 1
    at = torch.arange(size, device=fired.device) * counts.shape[1] + torch.bucketize(streaks, edges)
    counts += torch.bincount(at[fired], minlength=counts.numel()).view_as(counts)
    silent.copy_(batch - last[-1])


def _count_batch(fired: Tensor, silent: Tensor, counts: Tensor) -> None:
    """Continue the streaks through a batch that is silent or not as a whole."""
    active = fired.any(0)
    _add(counts, active, silent)
    silent.add_(len(fired)).masked_fill_(active, 0)


def _add(counts: Tensor, units: Tensor, lengths: Tensor) -> None:
    """Count a streak of its length for each of ``units``; the last column is for streaks longer than the limit."""
    at = lengths.clamp_max(counts.shape[1] - 1)[:, None]
    counts.scatter_add_(1, at, units.to(counts.dtype)[:, None])


def _shorter(bound: Tensor, counts: Tensor, quantile: float) -> Tensor:
    """The quantile of each unit's streaks of at least 1 if it is below the bound, else twice the bound."""
    streaks = counts[:, 1:]
    share = streaks.cumsum(1) / streaks.sum(1, keepdim=True)  # NaN without a streak, which reaches no quantile
    at = (share >= quantile).to(torch.uint8).argmax(1) + 1
    return torch.where(at < bound, at, 2 * bound)
