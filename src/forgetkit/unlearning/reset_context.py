"""What a way of forgetting may look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from forgetkit.contracts import (
    Change,
    Layer,
    Origin,
    Probe,
    Reference,
    Rounding,
    Scope,
    Ties,
    UnitGroup,
    Which,
    component_name,
)
from forgetkit.errors import OptionError
from forgetkit.seeding import Seeds
from forgetkit.unlearning import selection
from forgetkit.unlearning.fresh_values import FreshValues
from forgetkit.unlearning.model_view import ModelProbe, ModelView
from forgetkit.unlearning.probe import ValidatedScores
from forgetkit.unlearning.selection_group import SelectionGroup
from forgetkit.unlearning.units import reset_changes


@dataclass(eq=False)
class ResetContext:
    """Implements :class:`forgetkit.contracts.ReinitContext` for ``component``, with the scores of ``criterion``."""

    subject: ModelView
    seeds: Seeds
    component: object
    memory: Mapping[str, Tensor]
    scores: ValidatedScores | None = None
    criterion: str = ""
    processes: SelectionGroup = field(default_factory=SelectionGroup)
    """Those that select together."""
    last_selection: selection.Selection | None = field(default=None, init=False)
    """The last one that was asked for."""

    @property
    def who(self) -> str:
        """What messages call the component."""
        return component_name(self.component)

    @cached_property
    def _origins(self) -> FreshValues:
        return FreshValues(self.subject.model, self.subject.past, self.seeds)

    @property
    def repeated(self) -> str | None:
        """What two builds of the network have in common, if fresh values were taken from one."""
        return self._origins.repeated if "_origins" in vars(self) else None

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The trainable parameters, detached."""
        return self.subject.targets

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """Buffers of modules that can initialise themselves."""
        return self.subject.buffers

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in order of execution."""
        return self.subject.layers

    @property
    def units(self) -> Sequence[UnitGroup]:
        """The groups of units."""
        return self.subject.units

    def names(self, scope: Scope | Literal["norm"]) -> tuple[str, ...]:
        """The names in ``targets`` that are in ``scope``."""
        return self.subject.names(scope, self.targets)

    def select(
        self, fraction: float, *, which: Which = "lowest", ties: Ties = "random", rounding: Rounding = "down"
    ) -> Mapping[str, Tensor]:
        """Masks over a fraction of the scored entries. Ask before the first change is yielded.

        Each asking for one makes a new tensor: changing that changes no mask, ``dict(masks)`` is one to change.
        """
        if self.scores is None:
            raise OptionError("a reinit method that calls select() declares needs_scores = True")
        with self.subject.lend(self.criterion) if self.scores.lazy else nullcontext():
            found = selection.selection(
                self.scores, fraction, self.seeds, which=which, ties=ties, rounding=rounding, processes=self.processes
            )
        if found.threshold is not None and found.tied == found.entries:
            self.scores.refuse_equal(found.entries, found.threshold)
        self.last_selection = found
        return found.masks

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """A fresh value, on the device and in the dtype of what it replaces."""
        old = self.targets.get(name, self.buffers.get(name))
        if old is None:
            raise OptionError(f"'{name}' is neither a trainable parameter nor a buffer that can be drawn anew")
        return self._origins.draw(name, origin).to(device=old.device, dtype=old.dtype)

    def rng(self, name: str, *, lasting: bool = False) -> torch.Generator:
        """A CPU generator that is a function of the seed and ``name``."""
        if not lasting:
            return self.seeds.torch("reinit", name)
        if self.subject.past.seeds is None:
            raise OptionError(f"{self.who} draws once for a whole run and needs the seed of it: pass run_seed=")
        # By its class: as it was written it may be spelled otherwise when the run is resumed.
        return self.subject.past.seeds.torch("lasting", type(self.component).__name__, name)

    def reset_units(self, units: Mapping[str, Tensor]) -> Iterator[Change]:
        """Changes that start units anew and silence them."""
        return reset_changes(self.units, units, {**self.targets, **self.buffers}, self.fresh)

    def reference(self, which: Reference) -> Mapping[str, Tensor]:
        """Weights of the past."""
        return self.subject.reference(which, self.targets)

    @contextmanager
    def probe(self) -> Iterator[Probe]:
        """The model, lent to be measured."""
        with self.subject.lend(self.who):
            yield ModelProbe(self.subject, self.who, self.memory, self.targets)
