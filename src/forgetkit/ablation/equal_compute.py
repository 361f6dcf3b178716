"""Equal compute: the same number of training samples for every cell of a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from forgetkit import config
from forgetkit.ablation.grid import GridCell
from forgetkit.config import Plan
from forgetkit.engine.events import EventDispatcher
from forgetkit.engine.run_data import RunData
from forgetkit.errors import ConfigError
from forgetkit.registry.registry import Registry
from forgetkit.results.arm import format_arm

_REPLACED = ("epochs", "milestones")
"""Options of the length of training that ``samples`` replaces."""

_STREAM_OPTIONS = (
    *("dataset", "seed", "replay", "mega_batches", "split", "val_fraction"),
    *("shots", "label_noise", "label_noise_draw", "label_noise_val", "augment"),
)
"""Options that decide the sizes of mega-batches."""


def match_samples(
    plans: Sequence[Plan], cells: Sequence[GridCell], registry: Registry, cache: Path
) -> tuple[GridCell, ...]:
    """Return the cells with ``samples`` in place of epochs, so that all runs see equally many.

    That number is the smallest that a cell would have seen by its epochs, rounded down to a multiple of each number of
    mega-batches. The default milestones at 40 % and 80 % of the epochs move to 40 % and 80 % of the samples.

    Raises ``ConfigError`` if cells set ``samples``, ``patience`` or milestones of their own, or differ only in epochs.
    """
    sizes: dict[tuple[Any, ...], Sequence[int]] = {}
    totals = []
    for plan, cell in zip(plans, cells, strict=True):
        _require_epochs(plan, cell, registry)
        key = tuple(getattr(plan.config, option) for option in _STREAM_OPTIONS)
        if key not in sizes:
            sizes[key] = RunData.prepare(on_cpu(plan), EventDispatcher([]), cache).sizes
        totals.append(plan.config.epochs * sum(sizes[key]))
    counts = [plan.config.mega_batches for plan in plans]
    each = min(totals, default=0) // math.lcm(*counts) * math.lcm(*counts)
    if cells and not each:
        raise ConfigError("--match samples: the smallest cell sees too few samples to be shared out among mega-batches")
    found = tuple(
        _with_samples(cell, plan, each // plan.config.mega_batches) for cell, plan in zip(cells, plans, strict=True)
    )
    _require_different(cells, found)
    return found


def on_cpu(plan: Plan) -> Plan:
    """Return the plan on the CPU, to read its data while workers use the device."""
    return replace(plan, config=plan.config.model_copy(update={"device": "cpu"}))


def _require_epochs(plan: Plan, cell: GridCell, registry: Registry) -> None:
    """Raise ``ConfigError`` unless the cell trains for epochs, to their end."""
    own = plan.config
    if own.samples is not None:
        raise ConfigError("--match samples says how many samples each cell sees: leave --samples out")
    if own.patience:
        raise ConfigError(
            f"--match samples: with --patience {own.patience} a cell may see fewer samples than others; "
            "use --patience 0"
        )
    if own.milestones and "milestones" in cell.options:
        usual = config.resolve(_without_epochs(cell.options, "milestones"), registry).config.milestones
        if own.milestones != usual:
            raise ConfigError(
                f"--match samples: --milestones {','.join(map(str, own.milestones))} count epochs, of which each arm "
                "gets another number: leave them out, for 40 % and 80 % of what is trained"
            )


def _with_samples(cell: GridCell, plan: Plan, samples: int) -> GridCell:
    gone = _REPLACED if plan.config.milestones else ("epochs",)
    options = {**_without_epochs(cell.options, *gone), "samples": samples}
    return replace(cell, options=options, shared=_without_epochs(cell.shared, *gone))


def _without_epochs(options: Mapping[str, Any], *gone: str) -> dict[str, Any]:
    return {option: value for option, value in options.items() if option not in gone}


def _require_different(before: Sequence[GridCell], after: Sequence[GridCell]) -> None:
    """Raise ``ConfigError`` if cells that differed are the same run now."""
    first: dict[str, int] = {}
    for place, cell in enumerate(after):
        other = first.setdefault(repr(sorted(cell.options.items(), key=lambda item: item[0])), place)
        if before[other].options != before[place].options:
            raise ConfigError(
                f"--match samples: {format_arm(before[other].arm)} and {format_arm(before[place].arm)} would be the "
                "same run, as only epochs tell them apart: leave one of them out"
            )
