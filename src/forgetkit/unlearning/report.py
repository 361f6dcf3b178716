"""The report of one reset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from forgetkit.unlearning.selection import Selection

_FEW = 0.1
"""If a smaller fraction of the reset entries changed, something is probably wrong."""


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """How many entries a parameter has, and how many of them got a new value."""

    size: int
    reset: int


@dataclasses.dataclass(frozen=True)
class UnlearnReport:
    """What one reset scored and changed.

    Attributes:
        scored: Entries that took part in the selection; 0 if none was needed.
        reset: Parameter entries that got a value.
        threshold: The largest score among the selected entries; None if there was no selection.
        seconds: Wall-clock time.
        forward_passes: Samples that scoring, the reinit method and recalibration ran through the model.
        backward_passes: Samples that they ran through it backward.
        layers: One entry per parameter that a change was proposed for.
        optimizer_cleared: Entries of the optimizer's state that were set to those of a new optimizer.
        buffers: Names of the buffers that were written.
        left_out: Parameters that did not take part, each with the reason.
        changed: Of the ``reset`` entries, those whose value differs from before.
        tied: Scored entries equal to ``threshold``, over all processes.
        remarks: Lines about what is probably wrong.
        repeated: A line about fresh values that two builds of the network have in common, or None.
        optimizer_notes: Numbers of the optimizer's state that stayed, since they belong to kept entries too.
        followed: Entries that followers got.
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
    optimizer_notes: tuple[str, ...] = ()
    followed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the report in types that JSON can hold."""
        content = dataclasses.asdict(self)
        lists = {name: list(content[name]) for name in ("buffers", "remarks", "optimizer_notes")}
        return {**content, **lists}


def tie_remark(selected: Selection) -> str | None:
    """Return a line if more than half of the entries share the score at the threshold.

    It names no component: a resumed run writes options out in full and must record the same line.
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
    """Return a line if a reset left most of its entries as they were."""
    if changed >= _FEW * reset:
        return None
    return (
        f"{reset:,} entries were reset, and {f'only {changed:,}' if changed else 'none'} of them changed: "
        "the fresh values equal the current ones"
    )
