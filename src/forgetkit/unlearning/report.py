"""The audit of one forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from forgetkit.unlearning.selection import Selection

_FEW = 0.1
"""Share of the entries that were reset. If fewer of them changed, something is probably wrong."""


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """A parameter: how many entries it has, and how many got a new value."""

    size: int
    reset: int


@dataclasses.dataclass(frozen=True)
class UnlearnReport:
    """What one forgetting looked at and what it changed.

    ``scored`` counts the entries that took part in the selection (0 where none was needed),
    ``reset`` the parameter entries that got a value, ``changed`` those of them whose value is another than before,
    ``threshold`` is the largest score among the selected and ``tied`` how many scored entries have it (of all
    processes, if several select together). ``forward_passes`` and ``backward_passes`` count the samples that scoring,
    the reinit method and the recalibration of statistics ran through the model. ``layers`` has an entry per parameter
    that a change was proposed for; ``optimizer_cleared`` counts entries of the optimizer's state set to zero or
    dropped, ``buffers`` names the buffers written to, ``left_out`` the parameters that did not take part, each with its
    reason. ``remarks`` are lines about what is probably wrong; ``repeated`` is one about fresh values that two builds
    of the network have in common, None if there is nothing to say.
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
    changed: int = 0
    tied: int = 0
    remarks: tuple[str, ...] = ()
    repeated: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        content = dataclasses.asdict(self)
        return {**content, "buffers": list(self.buffers), "remarks": list(self.remarks)}


def tie_remark(selected: Selection) -> str | None:
    """A line about a threshold that more than half of the entries share.

    It names no component: a resumed run, which knows options spelled out alone, must record the same.
    """
    tied, entries = selected.tied, selected.entries
    if 2 * tied <= entries:
        return None
    return (
        f"{tied:,} of {entries:,} scored entries ({tied / entries:.0%}) share the score at the threshold, "
        f"{selected.threshold:g}, and the option ties decides between them: dead filters look like this, and so does a "
        "loss without gradient in most layers"
    )


def change_remark(reset: int, changed: int) -> str | None:
    """A line about a reset that left most of its entries as they were."""
    if changed >= _FEW * reset:
        return None
    return (
        f"{reset:,} entries were reset, and {f'only {changed:,}' if changed else 'none'} of them changed: "
        "the fresh values are those that the network has"
    )
