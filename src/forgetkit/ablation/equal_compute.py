"""Equal compute: every cell of a grid is given the same number of training samples."""

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

_GIVEN_OUT = ("epochs", "milestones")
"""What said how long a cell would be trained, and when the rate falls meanwhile."""

_THE_STREAM_IS_OF = (
    *("dataset", "seed", "replay", "mega_batches", "split", "val_fraction"),
    *("shots", "label_noise", "label_noise_draw", "label_noise_val", "augment"),
)
"""Options that how much is trained on depends on, or whether a data set suits them."""


def match_samples(
    plans: Sequence[Plan], cells: Sequence[GridCell], registry: Registry, cache: Path
) -> tuple[GridCell, ...]:
    """The cells, each with ``samples`` in place of epochs, so that all see equally many in their whole runs.

    That number is the smallest of what they would have seen by their epochs, rounded down to what every number of
    mega-batches divides. Milestones go with the epochs: where the default has them, at 40 % and 80 % of the epochs,
    they are at 40 % and 80 % of the samples, and none stay none; others have no counterpart.

    Raises ``ConfigError`` where cells say how many samples they see, may stop before, differ only in how long they
    train, or have milestones of their own.
    """
    sizes: dict[tuple[Any, ...], Sequence[int]] = {}
    totals = []
    for plan, cell in zip(plans, cells, strict=True):
        _require_epochs(plan, cell, registry)
        key = tuple(getattr(plan.config, option) for option in _THE_STREAM_IS_OF)
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
    """For a look at the data: whoever carries cells out may need the device for them alone."""
    return replace(plan, config=plan.config.model_copy(update={"device": "cpu"}))


def _require_epochs(plan: Plan, cell: GridCell, registry: Registry) -> None:
    """Only what is trained for epochs, to their end, can be given samples instead."""
    asked = plan.config
    if asked.samples is not None:
        raise ConfigError("--match samples says how many samples each cell sees: leave --samples out")
    if asked.patience:
        raise ConfigError(
            f"--match samples: with --patience {asked.patience} a cell may see fewer samples than others; "
            "use --patience 0"
        )
    if asked.milestones and "milestones" in cell.options:
        usual = config.resolve(_without_epochs(cell.options, "milestones"), registry).config.milestones
        if asked.milestones != usual:
            raise ConfigError(
                f"--match samples: --milestones {','.join(map(str, asked.milestones))} count epochs, of which each arm "
                "gets another number: leave them out, for 40 % and 80 % of what is trained"
            )


def _with_samples(cell: GridCell, plan: Plan, samples: int) -> GridCell:
    gone = _GIVEN_OUT if plan.config.milestones else ("epochs",)
    options = {**_without_epochs(cell.options, *gone), "samples": samples}
    return replace(cell, options=options, shared=_without_epochs(cell.shared, *gone))


def _without_epochs(options: Mapping[str, Any], *gone: str) -> dict[str, Any]:
    return {option: value for option, value in options.items() if option not in gone}


def _require_different(before: Sequence[GridCell], after: Sequence[GridCell]) -> None:
    """Cells that differed must not have become the same run."""
    first: dict[str, int] = {}
    for place, cell in enumerate(after):
        other = first.setdefault(repr(sorted(cell.options.items(), key=lambda item: item[0])), place)
        if before[other].options != before[place].options:
            raise ConfigError(
                f"--match samples: {format_arm(before[other].arm)} and {format_arm(before[place].arm)} would be the "
                "same run, as only epochs tell them apart: leave one of them out"
            )
