"""The context of a reinit method: scores to select by, fresh values, and the model's structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from forgetkit.contracts import Change, Origin, Probe, Reinit, Rounding, Ties, Which, component_name
from forgetkit.errors import NoMatchError, OptionError
from forgetkit.unlearning import selection
from forgetkit.unlearning.lazy_tensors import LazyTensors
from forgetkit.unlearning.masks import EligibleScores
from forgetkit.unlearning.model_view import ModelProbe, ModelView, ViewAccess
from forgetkit.unlearning.probe import ValidatedScores
from forgetkit.unlearning.selection_group import SelectionGroup
from forgetkit.unlearning.shards import Shards
from forgetkit.unlearning.tensor_parts import cut_like, is_sharded, joined_like
from forgetkit.unlearning.unit_reset import reset_changes, without_protected


@dataclass(eq=False)
class ResetContext(ViewAccess):
    """Implements :class:`forgetkit.contracts.ReinitContext` for ``component``, with the scores of ``criterion``."""

    view: ModelView
    component: object
    memory: Mapping[str, Tensor]
    scores: ValidatedScores | None = None
    criterion: str = ""
    processes: SelectionGroup = field(default_factory=SelectionGroup)
    last_selection: selection.Selection | None = field(default=None, init=False)

    @property
    def reinit(self) -> Reinit:
        """The reset method, if the context is of one."""
        return cast(Reinit, self.component)

    @property
    def name(self) -> str:
        """The component's name in messages."""
        return component_name(self.component)

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """The buffers that may change."""
        return self.view.buffers

    @property
    def repeated(self) -> str | None:
        """What two builds of the network have in common, if fresh values were taken from one."""
        return self._fresh_values.repeated if "_fresh_values" in vars(self) else None

    @property
    def scale_remark(self) -> str | None:
        """What is odd about the scale of the fresh values, if anything."""
        return self._fresh_values.scale_remark if "_fresh_values" in vars(self) else None

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each fresh value came from."""
        return self._fresh_values.sources if "_fresh_values" in vars(self) else {}

    def draw_with(self, name: str, parameter: str) -> Tensor | None:
        """Return what is drawn for ``name`` together with a parameter that got a fresh value; else None."""
        return self._fresh_values.draw_with(name, parameter) if "_fresh_values" in vars(self) else None

    def select(
        self, fraction: float, *, which: Which = "lowest", ties: Ties = "random", rounding: Rounding = "down"
    ) -> Mapping[str, Tensor]:
        """Return masks over a fraction of the scored entries; see :func:`forgetkit.unlearning.select`.

        A method calls it before it yields its first change.
        """
        if self.scores is None:
            raise OptionError("a reinit method that calls select() declares needs_scores = True")
        scored = self.view.scored
        shards = Shards(self.view.model, scored, self.processes) if is_sharded(self.view.model) else None
        with self.view.read_only_access(self.criterion) if self.scores.lazy else nullcontext():
            protected = self.view.protection.entries(self.view.model)
            eligible = {name: ~mask for name, mask in protected.items() if name in scored}
            if eligible and not self.view.eligible:
                raise NoMatchError(f"every scored entry of {type(self.view.model).__name__} is protected or pruned")
            selected = selection.select(
                EligibleScores(self.scores, eligible) if eligible else self.scores,
                fraction,
                self.view.seeds,
                which=which,
                ties=ties,
                rounding=rounding,
                processes=self.processes,
                shards=shards,
            )
        if selected.threshold is not None and selected.tied == selected.entries:
            self.scores.refuse_equal(selected.entries, selected.threshold)
        self.last_selection = selected
        masks = selected.masks.spread(eligible)
        return masks if shards is None else LazyTensors(masks, lambda name: joined_like(masks[name], scored[name]))

    def fresh(self, name: str, origin: Origin = "original") -> Tensor:
        """Return a fresh value, on the device and in the dtype of what it replaces."""
        old = self.targets.get(name, self.buffers.get(name))
        if old is None:
            raise OptionError(f"'{name}' is neither a trainable parameter nor a buffer that can be drawn anew")
        return cut_like(self._fresh_values.draw(name, origin).to(device=old.device, dtype=old.dtype), old)

    def rng(self, name: str, *, lasting: bool = False) -> torch.Generator:
        """Return a CPU generator that is a function of the seed and ``name``."""
        if not lasting:
            return self.view.seeds.torch("reinit", name)
        run_seeds = self.view.history.seeds
        if run_seeds is None:
            raise OptionError(f"{self.name} draws once for a whole run and needs the seed of it: pass run_seed=")
        # By class, since a resumed run may write the same component as another SPEC.
        return run_seeds.torch("lasting", type(self.component).__name__, name)

    def reset_units(self, units: Mapping[str, Tensor]) -> Iterator[Change]:
        """Return changes that reinitialise units and silence them, but for units with protected entries."""
        tensors = {**self.targets, **self.buffers}
        free = without_protected(self.units, units, tensors, self.view.protection.masks)
        return reset_changes(self.units, free, tensors, self.fresh)

    @contextmanager
    def probe(self) -> Iterator[Probe]:
        """Give read-only access to the model for measurements."""
        with self.view.read_only_access(self.name):
            yield ModelProbe(self.view, self.name, self.memory, self.targets)
