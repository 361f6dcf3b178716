"""The audit of one forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """A parameter: how many entries it has, and how many got a new value."""

    size: int
    reset: int


@dataclasses.dataclass(frozen=True)
class UnlearnReport:
    """What one forgetting looked at and what it changed.

    ``scored`` counts the entries that took part in the selection (0 where none was needed),
    ``reset`` the parameter entries that got a value, ``threshold`` is the largest score among the
    selected. ``forward_passes`` and ``backward_passes`` count the samples that scoring, the reinit method and
    the recalibration of statistics ran through the model. ``layers`` has an entry per parameter that a change was
    proposed for; ``optimizer_cleared`` counts entries of the optimizer's state set to zero or dropped, ``buffers``
    names the buffers written to, ``left_out`` the parameters that did not take part, each with its reason.
    """

    scored: int
    reset: int
    threshold: float | None
    seconds: float
    forward_passes: int
    backward_passes: int
    layers: Mapping[str, LayerReport]
    optimizer_cleared: int = 0
    buffers: tuple[str, ...] = ()
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        content = dataclasses.asdict(self)
        return {**content, "buffers": list(self.buffers)}
