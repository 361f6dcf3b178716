"""One precision for all arms of an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from forgetkit.ablation.equal_compute import on_cpu
from forgetkit.config import Plan
from forgetkit.contracts import Data
from forgetkit.engine.auto import suits_bf16
from forgetkit.engine.events import EventDispatcher
from forgetkit.engine.run_data import RunData
from forgetkit.errors import ForgetkitError

_DECIDING = ("dataset", "model", "batch_size", "mega_batches", "val_fraction", "shots")
"""Options that decide what ``--precision auto`` resolves to in a run."""


def share_precision(plans: Sequence[Plan], cache: Path) -> tuple[dict[str, str], ...]:
    """The option for each plan that gives all cells one precision; none if ``auto`` resolves to the same in each.

    ``auto`` depends on the network and its batches. If these differ between the plans, each network is built once, on
    the CPU; unless each suits bf16, all are trained in fp32.
    """
    is_open = [plan.config.precision == "auto" for plan in plans]
    kinds = {
        tuple(getattr(plan.config, option) for option in _DECIDING): plan
        for plan, left_open in zip(plans, is_open, strict=True)
        if left_open
    }
    option = {} if len(kinds) < 2 or _all_suit_bf16(list(kinds.values()), cache) else {"precision": "fp32"}
    return tuple(option if left_open else {} for left_open in is_open)


def _all_suit_bf16(plans: Sequence[Plan], cache: Path) -> bool:
    loaded: dict[str, Data] = {}
    for plan in plans:
        with suppress(ForgetkitError):  # a cell that cannot be run fails by itself
            dataset = plan.config.dataset
            run_data = RunData.load(on_cpu(plan), EventDispatcher(()), cache, data=loaded.get(dataset))
            loaded[dataset] = run_data.clean
            if not suits_bf16(run_data):
                return False
    return True
